"""Three students and the texts on which `bench.store.bytes` compares them with the teacher of the last run.

near     the teacher with noise on the weights of its layers
far      the teacher without one of its layers
pruned   thirteen evenly spread layers of the teacher, which write garbage with a flat teacher distribution

For the near and the far student, half of the texts are their own completions for GSM8K and half are references; for the
pruned student, all are its own completions. References were not sampled from a model, so the student's likely tokens
and tail samples are added to them here: a configuration of the store may use them or not.
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
    """Texts with N positions, and the hidden states and LM heads from which teacher and student predict them."""

    student: str
    rollouts: list[Rollout]
    teacher_ND: Tensor
    rounded_ND: Tensor
    """Hidden states of the teacher with the matrix products of its layers in bfloat16."""

    student_ND: Tensor
    teacher_head: Head
    student_head: Head


_TEMPLATE = TemplateParams(
    text="{question}\n\nThink step by step, and end with the answer after ####.", chat=True, system=None
)


def load_prompts(
    teacher: Path, data: Path, count: int, *, longest: int = 160, template: TemplateParams = _TEMPLATE
) -> list[Prompt]:
    """Return training prompts of GSM8K."""
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
    """Write the model directory of a student."""
    model = lm.load_model(teacher)
    if name == "near":
        _disturb(model)
    else:
        all_but_one = (layer for layer in range(len(model.base_model.layers)) if layer != _DROPPED)
        model = keep_layers(model, _PRUNED if name == "pruned" else tuple(all_but_one), where=name)
    model.save_pretrained(out)
    load_tokenizer(teacher).save_pretrained(out)


@torch.no_grad()
def _disturb(model: lm.Model) -> None:
    generator = torch.Generator().manual_seed(0)
    for weight in model.base_model.layers.parameters():
        if weight.ndim == 2:
            weight += _NOISE * weight.std() * torch.randn(weight.shape, generator=generator)


def write_texts(name: str, student: Path, prompts: Sequence[Prompt]) -> list[Rollout]:
    """Return the student's own completions, each followed by the reference of another prompt."""
    tokenizer = load_tokenizer(student)
    sampler = HFSampler(student, precision="auto", vocab=shared_vocab(tokenizer), eos_ids=eos_ids(tokenizer), seed=0)
    half = len(prompts) if name == "pruned" else len(prompts) // 2
    own: list[Rollout] = []
    for batch in plan_batches(prompts[:half], 1, 32, name=name):
        own += collect_rollouts(batch, sampler, _SAMPLING, lambda ids: decode(tokenizer, ids), source="student")
    references = reference_rollouts(prompts[half:])
    return [rollout for pair in itertools.zip_longest(own, references) for rollout in pair if rollout is not None]


@torch.no_grad()
def with_student_support(rollouts: Sequence[Rollout], head: Head, hidden_ND: Tensor) -> list[Rollout]:
    """Return the rollouts with the student's likely tokens and tail samples at the positions of references."""
    spans = torch.split(hidden_ND, [len(rollout.completion_ids) for rollout in rollouts])
    return [
        rollout if rollout.source == "student" else _as_sampled(rollout, head(hidden_TD))
        for rollout, hidden_TD in zip(rollouts, spans, strict=True)
    ]


def _as_sampled(rollout: Rollout, logits_TV: Tensor) -> Rollout:
    q_TV = logits_TV.softmax(-1)
    likely = tokens_above_threshold(q_TV, _SAMPLING)
    uniform_T = np.random.Generator(np.random.Philox(derive_seed(rollout.rollout_id))).random(len(likely))
    tail_sample_ids, tail_offset = sample_tail_tokens(logits_TV, q_TV, likely, uniform_T, _SAMPLING)
    return replace(rollout, support_ids=likely, tail_sample_ids=tail_sample_ids, tail_offset=tail_offset)


@torch.no_grad()
def hidden(model: lm.Model, rollouts: Sequence[Rollout]) -> Tensor:
    """Return the hidden states [N, D] of all completion positions."""
    return torch.cat(
        [lm.completion_hidden(model, [rollout.prompt_ids], [rollout.completion_ids]) for rollout in rollouts]
    )


@contextmanager
def rounding(model: lm.Model) -> Iterator[None]:
    """Make the matrix products of the layers as bfloat16 has them: operands and results rounded, sums in float32.

    This gives the same numbers on any machine, at the speed of float32. bfloat16 itself takes seven times as long on a
    CPU that lacks it.
    """
    linears = [module for module in model.base_model.modules() if isinstance(module, torch.nn.Linear)]
    exact = [linear.weight.data for linear in linears]
    hooks = [linear.register_forward_pre_hook(lambda _, inputs: (_rounded(inputs[0]),)) for linear in linears]
    hooks += [linear.register_forward_hook(lambda _, __, output: _rounded(output)) for linear in linears]
    try:
        for linear in linears:
            linear.weight.data = _rounded(linear.weight.data)
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for linear, weight in zip(linears, exact, strict=True):
            linear.weight.data = weight


def _rounded(numbers: Tensor) -> Tensor:
    return numbers.bfloat16().float()


def populations(teacher: Path, prompts: Sequence[Prompt], scratch: Path) -> Iterator[Population]:
    """Yield one population per student; two models are in memory at once."""
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
            rollouts=with_student_support(texts, student_head, student_ND),
            teacher_ND=hidden(scorer, texts),
            rounded_ND=rounded_ND,
            student_ND=student_ND,
            teacher_head=lm.head_of(scorer, vocab),
            student_head=student_head,
        )
