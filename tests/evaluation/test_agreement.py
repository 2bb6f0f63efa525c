"""What is reported about a student, against the same computed densely in float64."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.core.sampling import Sampling
from pipeline.core.types import Prompt
from pipeline.evaluation.agreement import LIKELIEST, compare, join
from pipeline.evaluation.completions import Completions, EvaluationParams, complete, judge
from pipeline.models import language_model as lm
from pipeline.rollout.hf_sampler import HFSampler
from pipeline.rollout.sampler import Sampled

VOCAB = 260
P = EvaluationParams(prompts=4, batch_size=3, max_new_tokens=6, precision="float32", recorded_prompts=2)


def prompt(name: str, ids: list[int], reference: str = "") -> Prompt:
    return Prompt(
        prompt_id=name, split="heldout", prompt_ids=ids, reference_ids=[], prompt_text="", references=[reference]
    )


def sampled(ids: list[int], *, finished: bool = False) -> Sampled:
    return Sampled(token_ids=ids, logp=[], support_ids=[], tail_sample_ids=[], tail_offset=[], finished=finished)


PROMPTS = [prompt("a", [256, 1, 2, 3, 4]), prompt("b", [256]), prompt("c", [256, 9, 9]), prompt("d", [256, 7])]
COMPLETIONS = [sampled([5, 6, 7]), sampled([8]), sampled([257, 257, 0, 1, 2, 257]), sampled([11, 12])]


@torch.inference_mode()
def dense(path: Path, vocab: int) -> NDArray[np.float64]:
    """Log-probs of all 12 completion positions [N, V], one whole unpadded pass a sequence, in float64."""
    model = lm.load_model(path).double()
    rows = []
    for one, written in zip(PROMPTS, COMPLETIONS, strict=True):
        logits_SV = model(input_ids=torch.tensor([one.prompt_ids + written.token_ids])).logits[0]
        rows.append(logits_SV[len(one.prompt_ids) - 1 : -1, :vocab].log_softmax(-1))
    logp_NV: NDArray[np.float64] = torch.cat(rows).numpy()
    return logp_NV


def compared(student: Path, teacher: Path, p: EvaluationParams = P, vocab: int = VOCAB) -> dict[str, float]:
    return join(compare(student, teacher, PROMPTS, COMPLETIONS, p, vocab=vocab, title="compare")).means()


@pytest.mark.parametrize("vocab", [VOCAB, 258])
@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_compare_is_the_dense_mean_over_positions(
    student_dir: Path, teacher_dir: Path, batch_size: int, vocab: int
) -> None:
    p = EvaluationParams(prompts=4, batch_size=batch_size, max_new_tokens=6, precision="float32", recorded_prompts=2)
    logp_NV, logq_NV = (dense(path, vocab) for path in (teacher_dir, student_dir))
    written = [token for one in COMPLETIONS for token in one.token_ids]
    assert len(logp_NV) == len(written) == 12
    assert compared(student_dir, teacher_dir, p, vocab) == pytest.approx(
        {
            "forward_kl": (np.exp(logp_NV) * (logp_NV - logq_NV)).sum(-1).mean(),
            "reverse_kl": (np.exp(logq_NV) * (logq_NV - logp_NV)).sum(-1).mean(),
            "top1_agreement": (logp_NV.argmax(-1) == logq_NV.argmax(-1)).mean(),
            "teacher_logp": logp_NV[np.arange(12), written].mean(),
        },
        rel=1e-4,
    )


@pytest.mark.parametrize("batch_size", [1, 3])
def test_every_token_is_compared_where_it_stands(student_dir: Path, teacher_dir: Path, batch_size: int) -> None:
    """Completions come back in the order of the prompts, whatever the order in which they were read."""
    p = EvaluationParams(prompts=4, batch_size=batch_size, max_new_tokens=6, precision="float32", recorded_prompts=4)
    compared = compare(student_dir, teacher_dir, PROMPTS, COMPLETIONS, p, vocab=VOCAB, title="compare")
    rows = [
        row
        for one, written, at in zip(PROMPTS, COMPLETIONS, compared, strict=True)
        for row in at.rows(one.prompt_id, written.token_ids, lambda ids: [f"<{i}>" for i in ids])
    ]
    logp_NV, logq_NV = (dense(path, VOCAB) for path in (teacher_dir, student_dir))
    assert [(row.prompt_id, row.position, row.token) for row in rows] == [
        (one.prompt_id, position, f"<{token}>")
        for one, written in zip(PROMPTS, COMPLETIONS, strict=True)
        for position, token in enumerate(written.token_ids)
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
    p = EvaluationParams(prompts=4, batch_size=3, max_new_tokens=6, precision=precision, recorded_prompts=0)
    found = compared(teacher_dir, teacher_dir, p)
    assert found.pop("teacher_logp") < 0
    assert found == {"forward_kl": 0.0, "reverse_kl": 0.0, "top1_agreement": 1.0}


def test_swapping_the_models_swaps_the_divergences(student_dir: Path, teacher_dir: Path) -> None:
    one, other = compared(student_dir, teacher_dir), compared(teacher_dir, student_dir)
    assert one["forward_kl"] == pytest.approx(other["reverse_kl"], rel=1e-5)
    assert one["forward_kl"] != pytest.approx(one["reverse_kl"], rel=1e-2)


def test_completions_come_back_in_the_order_of_the_prompts(student_dir: Path) -> None:
    """Although they are made in order of length: sampled at temperature 1, and greedy."""
    sampler = HFSampler(student_dir, precision="float32", vocab=VOCAB, eos_ids=[257], seed=0)
    found = complete(PROMPTS, sampler, P, title="complete")
    for temperature, batch in ((1.0, found.sampled), (0.0, found.greedy)):
        sampling = Sampling(
            max_new_tokens=6,
            temperature=temperature,
            top_p=1.0,
            record_threshold=1.0,
            record_max=0,
            record_tail_samples=0,
        )
        for one, written in zip(PROMPTS, batch, strict=True):
            (alone,) = sampler.sample([one.prompt_ids], [f"evaluate/{one.prompt_id}"], sampling)
            assert written.token_ids == alone.token_ids
    assert found.tokens == sum(len(one.token_ids) for one in [*found.sampled, *found.greedy])


def test_every_greedy_completion_is_scored_once_and_the_sampled_that_end_are_counted() -> None:
    seen: list[str] = []

    class Task:
        def score(self, text: str, references: Sequence[str]) -> float:
            seen.append(text)
            return float(text in references)

    task: Any = Task()
    completions = Completions(
        sampled=[sampled([1], finished=True), sampled([2]), sampled([3]), sampled([4])],
        greedy=[sampled([120, 120]), sampled([121]), sampled([0], finished=True)],
    )
    prompts = [prompt("a", [1], "xx"), prompt("b", [1], "y"), prompt("c", [1], "z")]
    judged = judge(task, prompts, completions.greedy, lambda ids: "".join(map(chr, ids)))
    assert [(one.text, one.references, one.score) for one in judged] == [
        ("xx", ["xx"], 1.0),
        ("y", ["y"], 1.0),
        ("\0", ["z"], 0.0),
    ]
    assert seen == ["xx", "y", "\0"]
    assert completions.eos_share == 0.25
