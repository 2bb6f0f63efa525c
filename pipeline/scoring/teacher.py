"""The teacher at work/teacher as a stage asks it, and the store that remembers what it said."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.hashing import model_fingerprint
from pipeline.core.types import Rollout, Scores
from pipeline.models import language_model as lm
from pipeline.models.tokenizer import load_tokenizer, shared_vocab, template_fingerprint, tokenizer_fingerprint
from pipeline.runtime.layout import LAYOUT, store_root
from pipeline.scoring.hf_scorer import HFScorer, scorer_fingerprint
from pipeline.scoring.score import ScoringParams, score_rollouts
from pipeline.store.codecs import CODECS, config_of, stored_fingerprint
from pipeline.store.keys import Key, key_of
from pipeline.store.lookup import find_known
from pipeline.store.records import ScoredSequence, SegmentHeader
from pipeline.store.store import Location, Store


@dataclass(frozen=True, kw_only=True)
class CachedTeacher:
    """Scores of rollouts; the teacher is loaded when it is first asked, and stays."""

    p: ScoringParams
    header: SegmentHeader
    store: Store

    @classmethod
    def open(cls, p: ScoringParams) -> "CachedTeacher":
        """Of work/teacher and STILLROOM_STORE."""
        return cls(p=p, header=_header(p), store=Store(root=store_root()))

    def find(self, rollouts: Sequence[Rollout]) -> list[Location]:
        """Where the store has their scores."""
        return find_known(self.store.root, self.header.scorer, [key_of(one) for one in rollouts])

    def score(self, rollouts: Sequence[Rollout], known: Mapping[Key, Scores], *, title: str) -> list[ScoredSequence]:
        """All of them with their scores; those not in `known` are asked for, and go into the store."""
        publish = partial(self.store.publish, header=self.header, token_of_rank=self.token_of_rank)
        return score_rollouts(rollouts, known, lambda: self.teacher, publish, self.p, title=title)

    @cached_property
    def token_of_rank(self) -> NDArray[Any]:
        """[V] Of work/prompts."""
        ranks: NDArray[Any] = np.load(LAYOUT.ranks)
        return ranks

    @cached_property
    def teacher(self) -> HFScorer:
        """The model itself."""
        return HFScorer(
            LAYOUT.teacher,
            precision=self.p.precision,
            vocab=self.header.vocab_size,
            truncation=self.p.truncation,
            batch_size=self.p.batch_size,
        )


def _header(p: ScoringParams) -> SegmentHeader:
    tokenizer, teacher = load_tokenizer(LAYOUT.teacher), model_fingerprint(LAYOUT.teacher)
    codec = CODECS[p.codec]
    return SegmentHeader(
        scorer=stored_fingerprint(scorer_fingerprint(teacher, precision=p.precision, truncation=p.truncation), codec),
        teacher=teacher,
        tokenizer=tokenizer_fingerprint(tokenizer),
        template=template_fingerprint(tokenizer),
        engine="transformers",
        dtype=str(lm.resolve_dtype(p.precision)),
        vocab_size=shared_vocab(tokenizer),
        temperatures=p.truncation.temperatures,
        scoring={"support": p.truncation.identity()},
        codec=p.codec,
        codec_config=config_of(codec),
    )
