"""A teacher whose logits are NaN is told in one line, and nothing of that part is published."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.models.tiny import VOCAB, tiny_model
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


@pytest.mark.parametrize("name", ["Llama", "T5", "Jamba", "Mamba"])
def test_the_first_token_after_the_broken_one_is_named(
    name: str, make_tokenizer: Callable[..., Any], tmp_path: Path
) -> None:
    """In one pass over the completion, NaN reaches the tokens before it as well, but no other sequence."""
    tiny_model(name).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    scorer = HFScorer(tmp_path, precision="float32", vocab=VOCAB, truncation=P.truncation, batch_size=3)
    for module in scorer._model.modules():
        if isinstance(module, torch.nn.Embedding) and module.num_embeddings == VOCAB:
            weight_VD = module.weight.detach().clone()  # not the head's, which may be the same
            weight_VD[33] = torch.nan
            module.weight = torch.nn.Parameter(weight_VD)
    sequences = [
        rollout("good", [7, 8, 9], prompt=[3]),
        rollout("bad", [5, 6, 7, 33, 8, 9], prompt=[3], prompt_id="q"),
        rollout("worse", [33, 5], prompt=[4]),
    ]
    with pytest.raises(ModelError, match=r"at scored token 4 \(id 8\) of rollout bad \(prompt q\)"):
        scorer.score(sequences, lambda _: None)


def test_the_position_is_that_of_a_scored_token(broken: Path) -> None:
    """The prompt is read first, so tokens have distributions up to the broken one, which others wrote."""
    masked = rollout("r", [5, 6, BROKEN, 7], completion_mask=[True, False, False, True])
    (message,) = scored(broken, [masked])
    assert "at scored token 1 (id 7) of rollout r (prompt p), and in 1 weights" in message
    written = rollout("r", [5, 6, BROKEN, 7], completion_mask=[True, False, True, True])
    (message,) = scored(broken, [written])
    assert "at scored token 2 (id 7) of rollout r (prompt p), and in 1 weights" in message
