"""A teacher whose logits are NaN is told in one line, and nothing of that part is published."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from pipeline.core.types import Rollout, ScoredSequence
from pipeline.runtime.errors import ModelError
from pipeline.scoring.hf_scorer import HFScorer
from pipeline.scoring.score import score_rollouts
from tests.factories import rollout, scoring_params, with_weight

P = scoring_params(flush_every=1)
BROKEN = 77  # the token whose embedding is NaN


@pytest.fixture
def broken(make_model_dir: Callable[..., Path], tmp_path: Path) -> Path:
    """Return a teacher with a NaN embedding, which its head does not share."""
    teacher = make_model_dir(tmp_path / "whole", tie_word_embeddings=False)
    name = "model.embed_tokens.weight"
    return with_weight(teacher, tmp_path / "broken", name, lambda weight_VD: weight_VD[BROKEN].fill_(torch.nan))


def scored(teacher: Path, rollouts: Sequence[Rollout]) -> list[str]:
    """Score with the teacher, and return the published rollouts; the error of the scorer is in them."""
    published: list[str] = []

    def publish(sequences: Sequence[ScoredSequence]) -> None:
        published.extend(sequence.rollout.rollout_id for sequence in sequences)

    def load() -> HFScorer:
        return HFScorer(teacher, precision="float32", vocab=260, truncation=P.truncation, batch_size=2)

    try:
        score_rollouts(rollouts, {}, load, publish, P, title="score")
    except ModelError as error:
        published.append(str(error))
    return published


def test_nan_is_told_with_its_place_and_stops_the_part_that_has_it(broken: Path) -> None:
    rollouts = [rollout("good", [7, 8], prompt=[3]), rollout("bad", [7, 8, 9], prompt=[3, BROKEN], prompt_id="q")]
    good, message = scored(broken, rollouts)
    assert good == "good"
    assert message == (
        "scoring: expected finite logits, got NaN or infinity at scored token 0 (id 7) of rollout bad (prompt q), and "
        "in 1 weights: model.embed_tokens.weight; use another revision of this model, or train it anew at a lower "
        "learning rate"
    )


def test_the_position_is_that_of_a_scored_token(broken: Path) -> None:
    """The prompt is read first, so the first token still has a distribution."""
    masked = rollout("r", [5, 6, BROKEN, 7], completion_mask=[True, False, True, True])
    (message,) = scored(broken, [masked])
    assert f"at scored token 1 (id {BROKEN}) of rollout r (prompt p), and in 1 weights" in message
