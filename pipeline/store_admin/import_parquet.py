"""Import scores that other tools wrote as plain Parquet.

* Token ids are imported exactly, and log-probs within the codec's bounds. A row that is no distribution over the
  tokenizer's vocabulary is a DataError with its number, before anything of it is published.
* Importing the same files again adds nothing.
* Truncated scores lack some values. A missing tail is 1 less the sum of the entries. The entropy is computed over the
  entries and the tail as one outcome (a lower bound). A completion token that is no entry gets the smaller one of the
  tail and the smallest entry as its probability (an upper bound).
* There are neither tail samples nor student-support tokens.
* The files are read twice, first for the frequency ranks.

Array suffixes: see `pipeline.core.types`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.files import rank_by_count
from pipeline.core.hashing import digest
from pipeline.core.types import Entries, Rollout, ScoredSequence, Scores
from pipeline.runtime.errors import DataError
from pipeline.store.codecs import CODECS, config_of, stored_fingerprint
from pipeline.store.store import Store
from pipeline.store_admin.parquet_rows import PlainRow, read_entry_ids, read_rows
from schemas.manifest import SegmentHeader

_ROUNDING = 0.01  # the sum of probabilities in half precision may exceed 1 by this


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedTeacher:
    """The origin of imported scores, which the files do not contain."""

    teacher: str  # its name
    tokenizer: str  # fingerprint
    vocab_size: int
    eos_ids: frozenset[int]
    prompt_tokens: int | None  # for raw top-k rows without labels

    def header(self, codec: str) -> SegmentHeader:
        """Return the header of the segments; another name, tokenizer or codec is another scorer."""
        return SegmentHeader(
            scorer=stored_fingerprint(digest("imported", self.teacher, self.tokenizer), CODECS[codec]),
            teacher=digest("imported", self.teacher),
            tokenizer=self.tokenizer,
            template="",
            engine="imported",
            dtype="",
            vocab_size=self.vocab_size,
            temperatures=(1.0,),
            scoring={"teacher": self.teacher},
            codec=codec,
            codec_config=config_of(CODECS[codec]),
        )


def rank_entries(paths: Sequence[Path], vocab: int) -> tuple[NDArray[np.int32], int]:
    """Return the token ids [V] by their frequency among all entries, and the number of sequences.

    Raises:
        DataError: A token id is outside the vocabulary, or a file is not as `parquet_rows` describes.
    """
    counts_V, rows = np.zeros(vocab, dtype=np.int64), 0
    for path in paths:
        for ids, batch_rows in read_entry_ids(path):
            _check_ids(ids, vocab, str(path))
            counts_V += np.bincount(ids, minlength=vocab)
            rows += batch_rows
    return rank_by_count(counts_V), rows


def import_parquet(
    store: Store, paths: Sequence[Path], origin: ImportedTeacher, codec: str, token_of_rank: NDArray[np.int32]
) -> Iterator[list[ScoredSequence]]:
    """Publish the sequences of the files, and yield the sequences of each segment after it was published.

    Raises:
        DataError: A row is not as `parquet_rows` describes, or is no distribution.
    """
    header = origin.header(codec)
    for path in paths:
        for rows in read_rows(path, origin.prompt_tokens):
            sequences = [_scored(row, origin) for row in rows]
            store.publish(sequences, header, token_of_rank)
            yield sequences


def _scored(row: PlainRow, origin: ImportedTeacher) -> ScoredSequence:
    columns = row.columns
    _check_ids(np.array(columns["prompt_ids"] + columns["completion_ids"]), origin.vocab_size, row.where)
    rollout = Rollout(
        rollout_id=columns["rollout_id"],
        prompt_id=columns["prompt_id"],
        source=columns["source"],
        policy=columns["author"],
        prompt_ids=columns["prompt_ids"],
        completion_ids=columns["completion_ids"],
        completion_mask=columns["completion_mask"],
        behaviour_logp=[],
        finished=False,
        text="",
    )
    rollout = replace(rollout, finished=not origin.eos_ids.isdisjoint(rollout.scored_ids[-1:]))
    return ScoredSequence(rollout=rollout, scores=_scores(row, rollout.scored_ids, origin.vocab_size))


def _scores(row: PlainRow, token_ids: list[int], vocab: int) -> Scores:
    owner, positions, tail = row.owner, len(token_ids), row.columns["tail"]
    ids, logp = row.ids, row.logp.astype(np.float64)
    p = np.exp(logp)
    sum_N = np.bincount(owner, weights=p, minlength=positions)
    counts_N = np.bincount(owner, minlength=positions)
    _check_distributions(owner * vocab + ids, sum_N, row.where)
    _check_numbers(counts_N, row)
    tail_N = np.clip(1 - sum_N, 0, 1) if tail is None else np.array(tail)
    bucket_N = tail_N * np.log(np.where(tail_N > 0, tail_N, 1))
    return Scores.of_top(
        Entries(
            ids=ids.astype(np.int32),
            logp=logp.astype(np.float32),
            counts=counts_N.astype(np.int32),
        ),
        tail_NH=tail_N.astype(np.float32)[:, None],
        entropy_NH=(-np.bincount(owner, weights=p * logp, minlength=positions) - bucket_N).astype(np.float32)[:, None],
        token_logp_N=_token_logp(row, token_ids, logp, tail_N).astype(np.float32),
    )


def _token_logp(row: PlainRow, token_ids: list[int], logp: NDArray[Any], tail_N: NDArray[Any]) -> NDArray[Any]:
    """Return the log-prob of each scored token: of its column, of its entry, or else its upper bound."""
    if row.columns["token_logp"] is not None:
        return np.array(row.columns["token_logp"])
    token_logp_N: NDArray[Any] = np.log(np.maximum(tail_N, np.finfo(np.float32).tiny))
    np.minimum.at(token_logp_N, row.owner, logp)
    hit = row.ids == np.array(token_ids, dtype=np.int64)[row.owner]
    token_logp_N[row.owner[hit]] = logp[hit]
    return token_logp_N


def _check_distributions(places: NDArray[Any], sum_N: NDArray[Any], where: str) -> None:
    """Check that no position has a token twice, or probabilities whose sum exceeds 1."""
    if len(np.unique(places)) < len(places):
        raise DataError(where, expected="distinct tokens at a position", got="one twice", remedy="fix the row")
    if not (sum_N <= 1 + _ROUNDING).all():
        raise DataError(
            where,
            expected="natural log-probs, whose probabilities add up to at most 1",
            got=f"a sum of {sum_N.max():.3g}",
            remedy="subtract the log-sum-exp of all V logits",
        )


def _check_numbers(counts_N: NDArray[Any], row: PlainRow) -> None:
    """Check that every position has an entry, and that no number beside the entries is NaN or out of range."""
    tail_N, token_logp_N = (np.array(row.columns[name] or [0.0]) for name in ("tail", "token_logp"))
    in_range = ((tail_N >= 0) & (tail_N <= 1 + _ROUNDING)).all() and (token_logp_N <= _ROUNDING).all()
    if not (in_range and counts_N.all()):
        expected, got = "an entry at each position, tails from 0 to 1, log-probs of at most 0", "NaN, or another number"
        raise DataError(row.where, expected=expected, got=got, remedy="write the row anew")


def _check_ids(ids: NDArray[Any], vocab: int, where: str) -> None:
    if len(ids) and not (ids.min() >= 0 and ids.max() < vocab):
        raise DataError(
            where,
            expected=f"token ids below {vocab:,}, the tokenizer's size",
            got=f"{ids.min()} to {ids.max()}",
            remedy="name the tokenizer of the teacher that scored the rows",
        )
