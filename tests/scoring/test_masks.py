"""Scores of a completion of which others wrote tokens: those of its turns, each scored after all that came before."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.types import Scores, TokenSequence
from pipeline.scoring.hf_scorer import HFScorer
from pipeline.scoring.scorer import TruncationParams
from tests.scores import arrays_of

# Without tail samples, whose random numbers depend on the whole sequence.
TRUNCATION = TruncationParams(
    threshold=0.005, max_entries=16, samples_per_tail=0.0, min_tail=0.02, temperatures=(1.0, 2.0)
)
PROMPT, FIRST, TOOL, SECOND = [3, 9, 5], [7, 8, 11, 257], [20, 21, 22], [30, 31, 257]
MASK = [True] * 4 + [False] * 3 + [True] * 3


def score(model: Path, sequences: Sequence[TokenSequence], *, vocab: int = 260, batch_size: int = 1) -> list[Scores]:
    scorer = HFScorer(model, precision="float32", vocab=vocab, truncation=TRUNCATION, batch_size=batch_size)
    return scorer.score(sequences, lambda _: None)


def sequence(prompt: list[int], completion: list[int], mask: list[bool], **changes: Any) -> TokenSequence:
    return TokenSequence(prompt_ids=prompt, completion_ids=completion, completion_mask=mask, **changes)


def assert_equal(scores: Scores, expected: dict[str, Any], tolerance: float) -> None:
    for name, values in arrays_of(scores).items():
        np.testing.assert_allclose(values, expected[name], rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_conversation_has_the_scores_of_its_turns(teacher_dir: Path, batch_size: int) -> None:
    """Also of what the sampler recorded, which is aligned with the scored tokens."""
    support = [[40 + t, 50 + t] for t in range(7)]
    tail: dict[str, Any] = {"tail_sample_ids": [[60 + t] for t in range(7)], "tail_offset": [0.1 * t for t in range(7)]}
    masked = sequence(PROMPT, FIRST + TOOL + SECOND, MASK, support_ids=support, **tail)
    turns = [
        sequence(PROMPT, FIRST, [], support_ids=support[:4], **{name: values[:4] for name, values in tail.items()}),
        sequence(PROMPT + FIRST + TOOL, SECOND, [], support_ids=support[4:], **{n: v[4:] for n, v in tail.items()}),
    ]
    whole, *parts = score(teacher_dir, [masked, *turns], batch_size=batch_size)
    assert [len(whole), *map(len, parts)] == [7, 4, 3]
    first, second = map(arrays_of, parts)
    assert_equal(whole, {name: np.concatenate([first[name], second[name]]) for name in first}, 1e-5)
    assert whole.student.counts.sum() > 0
    assert np.isfinite(whole.stats.tail_mean_N).all()


def test_a_mask_of_all_tokens_changes_no_bit(teacher_dir: Path) -> None:
    plain, masked = score(teacher_dir, [sequence(PROMPT, FIRST, mask) for mask in ([], [True] * 4)])
    assert_equal(masked, arrays_of(plain), 0.0)


def test_an_encoder_decoder_reads_what_others_wrote_in_its_decoder(
    make_t5_dir: Callable[..., Path], tmp_path: Path
) -> None:
    model = make_t5_dir(tmp_path / "t5")
    completion = [7, 8, 9, 10, 1]
    mask = [True, False, False, True, True]
    whole, masked = score(model, [sequence(PROMPT, completion, []), sequence(PROMPT, completion, mask)], vocab=100)
    assert len(masked) == 3
    for name in ("tail_NH", "entropy_NH", "token_logp_N", "lse_NH"):
        expected = getattr(whole.stats, name)[np.array(mask)]
        np.testing.assert_allclose(getattr(masked.stats, name), expected, rtol=0, atol=1e-5)
