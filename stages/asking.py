"""The teacher at work/teacher as a stage asks it, and the store that remembers what it said."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import lm
from pipeline.catalog import find_known
from pipeline.codecs import CODECS, config_of, stored_fingerprint
from pipeline.engines.hf import HFScorer, scorer_fingerprint
from pipeline.fingerprint import model_fingerprint
from pipeline.records import Rollout, Scores
from pipeline.scoring import Key, ScoringParams, key_of, score_rollouts
from pipeline.sequences import ScoredSequence, SegmentHeader
from pipeline.store import Store
from pipeline.text import load_tokenizer, shared_vocab, template_fingerprint, tokenizer_fingerprint
from stages.command import RANKS, TEACHER, store_root


@dataclass(frozen=True, kw_only=True)
class Oracle:
    """Scores of rollouts; the teacher is loaded for the first that the store does not have, and stays."""

    p: ScoringParams
    header: SegmentHeader
    token_of_rank: NDArray[Any]
    store: Store

    @classmethod
    def open(cls, p: ScoringParams) -> "Oracle":
        """Of work/teacher, work/prompts and STILLROOM_STORE."""
        return cls(p=p, header=_header(p), token_of_rank=np.load(RANKS), store=Store(root=store_root()))

    def known(self, rollouts: Sequence[Rollout]) -> dict[Key, Scores]:
        """What the store has of them."""
        keys = [key_of(one) for one in rollouts]
        return self.store.read(find_known(self.store.root, self.header.scorer, keys))

    def score(self, rollouts: Sequence[Rollout], known: Mapping[Key, Scores], *, title: str) -> list[ScoredSequence]:
        """All of them with their scores; those not in `known` are asked for, and go into the store."""
        publish = partial(self.store.publish, header=self.header, token_of_rank=self.token_of_rank)
        return score_rollouts(rollouts, known, lambda: self._teacher, publish, self.p, title=title)

    @cached_property
    def _teacher(self) -> HFScorer:
        return HFScorer(
            TEACHER,
            precision=self.p.precision,
            vocab=self.header.vocab_size,
            support=self.p.support,
            batch_size=self.p.batch_size,
        )


def _header(p: ScoringParams) -> SegmentHeader:
    tokenizer, teacher = load_tokenizer(TEACHER), model_fingerprint(TEACHER)
    support, codec = asdict(p.support), CODECS[p.codec]
    return SegmentHeader(
        scorer=stored_fingerprint(scorer_fingerprint(teacher, precision=p.precision, support=support), codec),
        teacher=teacher,
        tokenizer=tokenizer_fingerprint(tokenizer),
        template=template_fingerprint(tokenizer),
        engine="transformers",
        dtype=str(lm.resolve_dtype(p.precision)),
        vocab_size=shared_vocab(tokenizer),
        temperatures=p.support.temperatures,
        scoring={"support": support},
        codec=p.codec,
        codec_config=config_of(codec),
    )
