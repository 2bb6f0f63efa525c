"""Reported metrics of a student, compared with dense float64 computations."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.sampling import Sampling
from pipeline.core.types import Prompt
from pipeline.evaluation.agreement import LIKELIEST, ModelPair, _agreement, compare, concatenate
from pipeline.evaluation.completions import Completions, EvaluationParams, complete, judge
from pipeline.models import language_model as lm
from pipeline.rollout.hf_sampler import HFSampler
from pipeline.rollout.sampler import Sampled
from pipeline.runtime.errors import ModelError
from tests.factories import evaluation_params, with_weight

VOCAB = 260
P = evaluation_params()
EMBEDDINGS = "model.embed_tokens.weight"


def held_out(name: str, ids: list[int], reference: str = "") -> Prompt:
    return Prompt(
        prompt_id=name, split="heldout", prompt_ids=ids, reference_ids=[], prompt_text="", references=[reference]
    )


def sampled(ids: list[int], *, finished: bool = False) -> Sampled:
    return Sampled(token_ids=ids, logp=[], support_ids=[], tail_sample_ids=[], tail_offset=[], finished=finished)


PROMPTS = [held_out("a", [256, 1, 2, 3, 4]), held_out("b", [256]), held_out("c", [256, 9, 9]), held_out("d", [256, 7])]
COMPLETIONS = [sampled([5, 6, 7]), sampled([8]), sampled([257, 257, 0, 1, 2, 257]), sampled([11, 12])]


@torch.inference_mode()
def dense(path: Path, vocab: int) -> NDArray[np.float64]:
    """Return the log-probs of all 12 completion positions [N, V], from one unpadded pass per sequence in float64."""
    model = lm.load_model(path).double()
    rows = []
    for prompt, sample in zip(PROMPTS, COMPLETIONS, strict=True):
        logits_SV = model(input_ids=torch.tensor([prompt.prompt_ids + sample.token_ids])).logits[0]
        rows.append(logits_SV[len(prompt.prompt_ids) - 1 : -1, :vocab].log_softmax(-1))
    logp_NV: NDArray[np.float64] = torch.cat(rows).numpy()
    return logp_NV


def compared(student: Path, teacher: Path, p: EvaluationParams = P, vocab: int = VOCAB) -> dict[str, float]:
    models = ModelPair(student=student, teacher=teacher, vocab_size=vocab)
    return concatenate(compare(models, PROMPTS, COMPLETIONS, p, title="compare")).means()


@pytest.mark.parametrize("vocab", [VOCAB, 258])
@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_compare_is_the_dense_mean_over_positions(
    student_dir: Path, teacher_dir: Path, batch_size: int, vocab: int
) -> None:
    p = evaluation_params(batch_size=batch_size)
    logp_NV, logq_NV = (dense(path, vocab) for path in (teacher_dir, student_dir))
    tokens = [token for sample in COMPLETIONS for token in sample.token_ids]
    assert len(logp_NV) == len(tokens) == 12
    assert compared(student_dir, teacher_dir, p, vocab) == pytest.approx(
        {
            "forward_kl": (np.exp(logp_NV) * (logp_NV - logq_NV)).sum(-1).mean(),
            "reverse_kl": (np.exp(logq_NV) * (logq_NV - logp_NV)).sum(-1).mean(),
            "top1_agreement": (logp_NV.argmax(-1) == logq_NV.argmax(-1)).mean(),
            "teacher_logp": logp_NV[np.arange(12), tokens].mean(),
        },
        rel=1e-4,
    )


@pytest.mark.parametrize("batch_size", [1, 3])
def test_every_token_is_compared_at_its_position(student_dir: Path, teacher_dir: Path, batch_size: int) -> None:
    """Agreements have the order of the prompts, whatever the order in which the models read them."""
    p = evaluation_params(batch_size=batch_size, recorded_prompts=4)
    models = ModelPair(student=student_dir, teacher=teacher_dir, vocab_size=VOCAB)
    agreements = compare(models, PROMPTS, COMPLETIONS, p, title="compare")
    rows = [
        row
        for prompt, sample, agreement in zip(PROMPTS, COMPLETIONS, agreements, strict=True)
        for row in agreement.rows(prompt.prompt_id, sample.token_ids, lambda ids: [f"<{i}>" for i in ids])
    ]
    logp_NV, logq_NV = (dense(path, VOCAB) for path in (teacher_dir, student_dir))
    assert [(row.prompt_id, row.position, row.token) for row in rows] == [
        (prompt.prompt_id, position, f"<{token}>")
        for prompt, sample in zip(PROMPTS, COMPLETIONS, strict=True)
        for position, token in enumerate(sample.token_ids)
    ]
    for row, p_V, q_V in zip(rows, logp_NV, logq_NV, strict=True):
        assert row.forward_kl == pytest.approx((np.exp(p_V) * (p_V - q_V)).sum(), rel=1e-3)
        assert row.reverse_kl == pytest.approx((np.exp(q_V) * (q_V - p_V)).sum(), rel=1e-3)
        for logp_V, tokens, values in (
            (p_V, row.teacher_tokens, row.teacher_p),
            (q_V, row.student_tokens, row.student_p),
        ):
            best = np.argsort(-logp_V)[:LIKELIEST]
            assert tokens == [f"<{i}>" for i in best]
            assert values == pytest.approx(np.exp(logp_V[best]), rel=1e-3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_teacher_is_at_no_distance_from_itself(teacher_dir: Path, precision: Any) -> None:
    p = evaluation_params(precision=precision, recorded_prompts=0)
    metrics = compared(teacher_dir, teacher_dir, p)
    assert metrics.pop("teacher_logp") < 0
    assert metrics == {"forward_kl": 0.0, "reverse_kl": 0.0, "top1_agreement": 1.0}


def test_swapping_the_models_swaps_the_divergences(student_dir: Path, teacher_dir: Path) -> None:
    forwards, backwards = compared(student_dir, teacher_dir), compared(teacher_dir, student_dir)
    assert forwards["forward_kl"] == pytest.approx(backwards["reverse_kl"], rel=1e-5)
    assert forwards["forward_kl"] != pytest.approx(forwards["reverse_kl"], rel=1e-2)


def test_completions_come_back_in_the_order_of_the_prompts(student_dir: Path) -> None:
    """Completions are sampled in order of length, at every temperature."""
    sampler = HFSampler(student_dir, precision="float32", vocab=VOCAB, eos_ids=[257], seed=0)
    completions = complete(PROMPTS, sampler, evaluation_params(temperatures=(0.0, 0.6, 1.0)), title="complete")
    assert (completions.at[0.0], completions.at[1.0]) == (completions.greedy, completions.sampled)
    assert len({str([sample.token_ids for sample in batch]) for batch in completions.at.values()}) == 3
    for temperature, batch in completions.at.items():
        sampling = Sampling(
            max_new_tokens=6,
            temperature=temperature,
            top_p=1.0,
            record_threshold=1.0,
            record_max=0,
            record_tail_samples=0,
        )
        for prompt, sample in zip(PROMPTS, batch, strict=True):
            (alone,) = sampler.sample([prompt.prompt_ids], [f"evaluate/{prompt.prompt_id}"], sampling)
            assert sample.token_ids == alone.token_ids
    samples = [sample for batch in completions.at.values() for sample in batch]
    assert completions.tokens == sum(len(sample.token_ids) for sample in samples)


def test_every_greedy_completion_is_scored_once() -> None:
    scored: list[str] = []

    class Task:
        def score(self, text: str, references: Sequence[str]) -> float:
            scored.append(text)
            return float(text in references)

    task: Any = Task()
    completions = Completions(at={0.0: [sampled([120, 120]), sampled([121]), sampled([0], finished=True)]})
    prompts = [held_out("a", [1], "xx"), held_out("b", [1], "y"), held_out("c", [1], "z")]
    judged = judge(task, prompts, completions.greedy, lambda ids: "".join(map(chr, ids)))
    assert [(answer.text, answer.references, answer.score) for answer in judged] == [
        ("xx", ["xx"], 1.0),
        ("y", ["y"], 1.0),
        ("\0", ["z"], 0.0),
    ]
    assert scored == ["xx", "y", "\0"]


def broken_pair(make_model_dir: Callable[..., Path], folder: Path, *, is_student: bool) -> tuple[Path, Path]:
    """Make a student and a teacher, of which one has NaN in the embedding of token 11."""
    whole = make_model_dir(folder / "whole", tie_word_embeddings=False)
    broken = with_weight(whole, folder / "broken", EMBEDDINGS, lambda weight_VD: weight_VD[11].fill_(torch.nan))
    return (broken, whole) if is_student else (whole, broken)


@pytest.mark.parametrize("is_student", [True, False])
def test_a_model_without_distributions_has_no_metrics(
    make_model_dir: Callable[..., Path], tmp_path: Path, is_student: bool
) -> None:
    """The token of the broken embedding is the first of completion d."""
    with pytest.raises(ModelError) as caught:
        compared(*broken_pair(make_model_dir, tmp_path, is_student=is_student))
    at = f"completion token 1 in the {'student' if is_student else 'teacher'}, and in 1 weights: {EMBEDDINGS}; "
    assert f"evaluation of prompt d: expected finite logits, got NaN or infinity at {at}" in str(caught.value)


@pytest.mark.parametrize("is_student", [True, False])
def test_the_first_token_that_is_not_predicted_is_named(
    make_model_dir: Callable[..., Path], tmp_path: Path, is_student: bool
) -> None:
    """In one pass over the completion, NaN reaches the tokens before it as well."""
    student, teacher = broken_pair(make_model_dir, tmp_path, is_student=is_student)
    models = ModelPair(student=student, teacher=teacher, vocab_size=VOCAB)
    with pytest.raises(ModelError, match=f"completion token 3 in the {'student' if is_student else 'teacher'}"):
        compare(models, [held_out("e", [256, 7])], [sampled([5, 6, 11, 12, 13])], P, title="compare")


def test_tokens_that_no_model_can_write_add_nothing(make_model_dir: Callable[..., Path], tmp_path: Path) -> None:
    """0 times the logarithm of 0; a divergence that is infinite is an error."""

    def without(logits_NV: Tensor) -> Tensor:
        return logits_NV.index_fill(-1, torch.tensor([3]), -torch.inf)

    p_NV, q_NV = torch.randn(2, 5, 20, generator=torch.Generator().manual_seed(0)).unbind()
    smaller = [torch.cat([logits[:, :3], logits[:, 4:]], -1) for logits in (p_NV, q_NV)]
    tokens_N = torch.tensor([0, 1, 2, 0, 1])
    whole, expected = _agreement(without(p_NV), without(q_NV), tokens_N), _agreement(*smaller, tokens_N)
    torch.testing.assert_close(whole.forward_kl_N, expected.forward_kl_N)
    torch.testing.assert_close(whole.reverse_kl_N, expected.reverse_kl_N)
    assert _agreement(p_NV, without(q_NV), tokens_N).forward_kl_N.isinf().all()
