"""Three students and the texts on which `bench.store.bytes` looks at them, from the teacher of the last run and GSM8K.

near     the teacher with noise on the weights of its layers
far      the teacher without one of its layers
pruned   thirteen evenly spread layers of the teacher: it writes garbage, on which the teacher is flat

The near and the far student are looked at on ground truth and on their own rollouts, half and half, the pruned one on
its own rollouts alone. The ground truth, which has no author, carries the student's likely tokens and draws as if it
had: a way to store scores may use them or not.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.checkpoints.pruning import keep_layers
from pipeline.core.hashing import derive_seed
from pipeline.core.sampling import Sampling
from pipeline.core.types import Prompt, Rollout, reference_rollouts
from pipeline.models import language_model as lm
from pipeline.models.head import Head
from pipeline.models.tokenizer import decode, eos_ids, load_tokenizer, shared_vocab
from pipeline.rollout.collect import collect_rollouts, plan_batches
from pipeline.rollout.hf_sampler import HFSampler, sample_tail_tokens, tokens_above_threshold
from pipeline.tasks.prompts import PromptParams, find_cases, render_prompts
from pipeline.tasks.templates import TemplateParams

STUDENTS = ("near", "far", "pruned")
_PRUNED = (0, 1, 3, 5, 8, 10, 13, 16, 18, 21, 24, 27, 29)
_DROPPED = 20
_NOISE = 0.0385
_SAMPLING = Sampling(
    max_new_tokens=128, temperature=1.0, top_p=1.0, record_threshold=0.005, record_max=64, record_tail_samples=16
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Population:
    """Texts with N positions, and what teacher and student predict them from."""

    student: str
    rollouts: list[Rollout]
    teacher_ND: Tensor  # hidden states
    rounded_ND: Tensor  # the teacher's, the products of its body in bfloat16
    student_ND: Tensor
    teacher_head: Head
    student_head: Head


_TEMPLATE = TemplateParams(
    text="{question}\n\nThink step by step, and end with the answer after ####.", chat=True, system=None
)


def load_prompts(
    teacher: Path, data: Path, count: int, *, longest: int = 160, template: TemplateParams = _TEMPLATE
) -> list[Prompt]:
    """Training prompts of GSM8K."""
    settings: dict[str, object] = {
        "data": str(data / "gsm8k"),
        "config": None,
        "revision": None,
        "train_split": "train",
        "heldout_split": "test",
    }
    settings |= {"question_column": "question", "answer_column": "answer"}
    p = PromptParams(
        name="gsm8k", train=count, heldout=1, max_prompt_tokens=longest, settings=settings, template=template
    )
    prompts, _ = render_prompts(find_cases(p), load_tokenizer(teacher), p, seed=0)
    return prompts[:-1]


def make_student(name: str, teacher: Path, out: Path) -> None:
    """A model directory of the student."""
    model = lm.load_model(teacher)
    if name == "near":
        _disturb(model)
    else:
        layers = (
            _PRUNED if name == "pruned" else [one for one in range(len(model.base_model.layers)) if one != _DROPPED]
        )
        model = keep_layers(model, tuple(layers), where=name)
    model.save_pretrained(out)
    load_tokenizer(teacher).save_pretrained(out)


@torch.no_grad()
def _disturb(model: lm.Model) -> None:
    generator = torch.Generator().manual_seed(0)
    for weight in model.base_model.layers.parameters():
        if weight.ndim == 2:
            weight += _NOISE * weight.std() * torch.randn(weight.shape, generator=generator)


def write_texts(name: str, student: Path, prompts: Sequence[Prompt]) -> list[Rollout]:
    """Own rollouts, each beside the ground truth of another prompt."""
    tokenizer = load_tokenizer(student)
    sampler = HFSampler(student, precision="auto", vocab=shared_vocab(tokenizer), eos_ids=eos_ids(tokenizer), seed=0)
    half = len(prompts) if name == "pruned" else len(prompts) // 2
    own: list[Rollout] = []
    for batch in plan_batches(prompts[:half], 1, 32, name=name):
        own += collect_rollouts(batch, sampler, _SAMPLING, lambda ids: decode(tokenizer, ids), source="student")
    references = reference_rollouts(prompts[half:])
    return [one for pair in itertools.zip_longest(own, references) for one in pair if one is not None]


@torch.no_grad()
def with_likely_tokens(rollouts: Sequence[Rollout], head: Head, hidden_ND: Tensor) -> list[Rollout]:
    """The ground truth with what the student finds likely there, and its draws from the rest."""
    spans = torch.split(hidden_ND, [len(one.completion_ids) for one in rollouts])
    return [
        one if one.source == "student" else _as_written(one, head(hidden_TD))
        for one, hidden_TD in zip(rollouts, spans, strict=True)
    ]


def _as_written(rollout: Rollout, logits_TV: Tensor) -> Rollout:
    q_TV = logits_TV.softmax(-1)
    named = tokens_above_threshold(q_TV, _SAMPLING)
    uniform_T = np.random.Generator(np.random.Philox(derive_seed(rollout.rollout_id))).random(len(named))
    tail_sample_ids, tail_offset = sample_tail_tokens(logits_TV, q_TV, named, uniform_T, _SAMPLING)
    return replace(rollout, support_ids=named, tail_sample_ids=tail_sample_ids, tail_offset=tail_offset)


@torch.no_grad()
def hidden(model: lm.Model, rollouts: Sequence[Rollout]) -> Tensor:
    """Hidden states [N, D] of all completion positions, end to end."""
    return torch.cat([lm.completion_hidden(model, [one.prompt_ids], [one.completion_ids]) for one in rollouts])


@contextmanager
def rounding(model: lm.Model) -> Iterator[None]:
    """The products of the model's body as bfloat16 has them: operands and results rounded, sums in float32.

    The same numbers on any machine, and at the speed of float32: bfloat16 on a CPU that lacks it takes seven times as
    long.
    """
    layers = [one for one in model.base_model.modules() if isinstance(one, torch.nn.Linear)]
    exact = [one.weight.data for one in layers]
    hooks = [one.register_forward_pre_hook(lambda _, given: (_rounded(given[0]),)) for one in layers]
    hooks += [one.register_forward_hook(lambda _, __, found: _rounded(found)) for one in layers]
    try:
        for one in layers:
            one.weight.data = _rounded(one.weight.data)
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for one, weight in zip(layers, exact, strict=True):
            one.weight.data = weight


def _rounded(numbers: Tensor) -> Tensor:
    return numbers.bfloat16().float()


def populations(teacher: Path, prompts: Sequence[Prompt], scratch: Path) -> Iterator[Population]:
    """One population a student; two models are in memory at once."""
    vocab = shared_vocab(load_tokenizer(teacher))
    scorer = lm.load_model(teacher)
    for name in STUDENTS:
        make_student(name, teacher, scratch / name)
        texts = write_texts(name, scratch / name, prompts)
        student = lm.load_model(scratch / name)
        student_ND, student_head = hidden(student, texts), lm.head_of(student, vocab)
        with rounding(scorer):
            rounded_ND = hidden(scorer, texts)
        yield Population(
            student=name,
            rollouts=with_likely_tokens(texts, student_head, student_ND),
            teacher_ND=hidden(scorer, texts),
            rounded_ND=rounded_ND,
            student_ND=student_ND,
            teacher_head=lm.head_of(scorer, vocab),
            student_head=student_head,
        )
