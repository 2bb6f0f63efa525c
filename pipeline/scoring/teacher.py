"""Score rollouts with the teacher of the project, and remember the scores in the store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.hashing import model_fingerprint
from pipeline.core.types import Rollout, ScoredSequence, Scores
from pipeline.models import language_model as lm
from pipeline.models.tokenizer import load_tokenizer, shared_vocab, template_fingerprint, tokenizer_fingerprint
from pipeline.runtime.layout import LAYOUT, store_root
from pipeline.scoring.hf_scorer import HFScorer, scorer_fingerprint
from pipeline.scoring.score import ScoringParams, score_rollouts
from pipeline.store.codecs import CODECS, config_of, stored_fingerprint
from pipeline.store.keys import Key, key_of
from pipeline.store.lookup import find_known
from pipeline.store.store import Location, Store
from schemas.manifest import SegmentHeader


@dataclass(frozen=True, kw_only=True)
class CachedTeacher:
    """The teacher in work/teacher behind the store at STILLROOM_STORE.

    The model is loaded when it is needed for the first time, and stays loaded.
    """

    p: ScoringParams
    header: SegmentHeader  # The description of its scores in every segment
    store: Store

    @classmethod
    def open(cls, p: ScoringParams) -> "CachedTeacher":
        """Return the teacher and the store of the project, without loading the model."""
        tokenizer, teacher = load_tokenizer(LAYOUT.teacher), model_fingerprint(LAYOUT.teacher)
        header = SegmentHeader(
            scorer=scorer_of(teacher, p),
            teacher=teacher,
            tokenizer=tokenizer_fingerprint(tokenizer),
            template=template_fingerprint(tokenizer),
            engine="transformers",
            dtype=str(lm.resolve_dtype(p.precision)),
            vocab_size=shared_vocab(tokenizer),
            temperatures=p.truncation.temperatures,
            scoring={"support": p.truncation.identity()},
            codec=p.codec,
            codec_config=config_of(CODECS[p.codec]),
        )
        return cls(p=p, header=header, store=Store(root=store_root()))

    def find(self, rollouts: Sequence[Rollout]) -> list[Location]:
        """Return the locations of these rollouts' scores in the store, as far as it has them."""
        return find_known(self.store.root, self.header.scorer, [key_of(rollout) for rollout in rollouts])

    def score(self, rollouts: Sequence[Rollout], stored: Mapping[Key, Scores], *, title: str) -> list[ScoredSequence]:
        """Return every rollout with its scores.

        Args:
            rollouts: Prompts and completions.
            stored: Scores from the store. The model scores the rollouts that have none, and the store gets the scores.
            title: The title of the progress bar.
        """
        publish = partial(self.store.publish, header=self.header, token_of_rank=self.token_of_rank)
        return score_rollouts(rollouts, stored, lambda: self.scorer, publish, self.p, title=title)

    @cached_property
    def token_of_rank(self) -> NDArray[Any]:
        """The token ids by frequency [V], from work/prompts."""
        ranks: NDArray[Any] = np.load(LAYOUT.ranks)
        return ranks

    @cached_property
    def scorer(self) -> HFScorer:
        """The model."""
        p, vocab, teacher = self.p, self.header.vocab_size, LAYOUT.teacher
        return HFScorer(teacher, precision=p.precision, vocab=vocab, truncation=p.truncation, batch_size=p.batch_size)


def scorer_of(teacher: str, p: ScoringParams) -> str:
    """Return the fingerprint of the scores that the teacher of this fingerprint gets in the store."""
    scorer = scorer_fingerprint(teacher, precision=p.precision, truncation=p.truncation)
    return stored_fingerprint(scorer, CODECS[p.codec])
