"""How scores become small arrays and come back: the only module that knows how entries are packed.

Guarantee: token ids and counts come back exactly, grouped by position and in ascending frequency rank; probabilities
within the codec's declared `bounds`; encoding what was decoded gives the same bytes. A segment names its codec and
carries its configuration, so a reader re-types nothing.
Cost: 2 bytes an entry on disk, ids and values compressed, and 4 bytes a position. One core encodes .3 M positions a
second and decodes 2.4 M (measured on synthetic scores with 18 entries a position, V = 49152).
Not taken: log-probs in fixed steps (most codes then describe a tail that carries no mass), storing by descending
probability (rank gaps compress better), an arithmetic coder (2-3 % for a decoder nobody else has).

Array suffixes: see `pipeline.records`; V vocabulary, C the 256 codes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StoreError
from pipeline.records import Floats, Ints, Scores

Arrays = dict[str, NDArray[Any]]

_SMALL = 1e-3  # probabilities below this are coded by their logarithm
_LARGEST_HALF = 65504.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorBounds:
    """The most that decoding may differ from what was encoded. Nothing is promised below `floor_p`."""

    sqrt_p: float  # absolute, of the root of any probability or mass
    log_p: float  # nats, for p >= floor_p
    log_p_small: float  # nats, for floor_p <= p < small_p
    small_p: float
    floor_p: float  # smaller probabilities come back as this one, except a mass of exactly 0
    token_logp: float  # relative, of the realised token's log-prob


class Codec(Protocol):
    """A frozen dataclass whose fields are its configuration. Arrays are those of `schemas.segment.PAYLOAD`."""

    name: ClassVar[str]

    @property
    def bounds(self) -> ErrorBounds:
        """The promised accuracy, written into the manifest."""

    def encode(self, scores: Scores, rank_of_token: NDArray[Any]) -> Arrays:
        """Pack scores; `rank_of_token` [V] gives each token id its frequency rank. The entropy is left out."""

    def decode(self, arrays: Arrays, token_of_rank: NDArray[Any], *, entropy_N: Floats) -> Scores:
        """The scores of any window of whole positions; `entropy_N` is passed through."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sqrt8:
    """Rank gaps, and probabilities in one byte: uniform in sqrt(p), and in log(p) below 0.001.

    The square root puts the codes where the loss looks: its error is even in Hellinger distance. Its lowest steps
    would be coarse in nats, so what `levels` leaves of the 255 codes goes to the logarithm.
    """

    name: ClassVar[str] = "sqrt8"

    levels: int
    """Steps of sqrt(p) between 0 and 1; at most 250."""
    floor_nats: float
    """Probabilities below exp(-floor_nats) are stored as this value."""

    def __post_init__(self) -> None:
        if type(self.levels) is not int or not 32 <= self.levels <= 250:
            raise ValueError(f"levels: expected a whole number from 32 to 250, got {self.levels!r}")
        # a floor above the lowest level of sqrt(p), at most 8.3 nats, would turn the log branch upside down
        if type(self.floor_nats) is not float or not 10.0 <= self.floor_nats <= 80.0:
            raise ValueError(f"floor_nats: expected a float from 10 to 80, got {self.floor_nats!r}")

    @property
    def bounds(self) -> ErrorBounds:
        """Half a step of each branch, plus what float32 rounds."""
        logp_C, _ = _table(self.levels, self.floor_nats)
        lowest = _lowest_level(self.levels)
        half_log_step = float(logp_C[2] - logp_C[1]) / 2
        small = lowest / self.levels
        in_sqrt = (0.5 / self.levels, small * math.expm1(half_log_step / 2), math.exp(-self.floor_nats / 2))
        return ErrorBounds(
            sqrt_p=max(in_sqrt) + 1e-6,
            log_p=max(2 * math.log1p(0.5 / lowest), half_log_step) + 1e-5,
            log_p_small=half_log_step + 1e-5,
            small_p=small**2,
            floor_p=math.exp(-self.floor_nats),
            token_logp=2.0**-11,
        )

    def encode(self, scores: Scores, rank_of_token: NDArray[Any]) -> Arrays:
        """Pack scores into the arrays of `schemas.segment.PAYLOAD`; `lse` is absent when H is 1."""
        arrays: Arrays = {}
        groups = (
            ("head", scores.head_ids, scores.head_logp, scores.head_n),
            ("draw", scores.draw_ids, scores.draw_logp, scores.draw_n),
            ("union", scores.union_ids, scores.union_logp, scores.union_n),
        )
        for group, ids, logp, n_N in groups:
            order, gaps = _to_gaps(ids, n_N, rank_of_token, distinct=group != "draw")
            arrays[f"{group}_id"] = gaps
            arrays[f"{group}_p"] = self._codes(logp[order])
            arrays[f"{group}_n"] = _counts(n_N, np.uint8 if group == "draw" else np.uint16, group)
        arrays["tail"] = self._mass_codes(scores.tail_NH)
        arrays["union_tail"] = arrays["tail"] - self._mass_codes(scores.union_tail_NH)
        arrays["token_logp"] = np.maximum(scores.token_logp_N, -_LARGEST_HALF).astype(np.float16)
        if scores.lse_NH.shape[1] > 1:
            arrays["lse"] = scores.lse_NH[:, 1:].astype(np.float32)
        return arrays

    def decode(self, arrays: Arrays, token_of_rank: NDArray[Any], *, entropy_N: Floats) -> Scores:
        """Scores of the positions in `arrays`; each position's entries ascend in rank."""
        table_C, _ = _table(self.levels, self.floor_nats)
        logp_C, mass_C = table_C.astype(np.float32), np.exp(table_C).astype(np.float32)
        n = {group: arrays[f"{group}_n"].astype(np.int32) for group in ("head", "draw", "union")}
        ids = {
            group: token_of_rank[_from_gaps(arrays[f"{group}_id"], n_N, distinct=group != "draw")].astype(np.int32)
            for group, n_N in n.items()
        }
        tail_NH = arrays["tail"]
        lse_NH = np.zeros(tail_NH.shape, dtype=np.float32)
        if tail_NH.shape[1] > 1:
            lse_NH[:, 1:] = arrays["lse"]
        return Scores(
            head_ids=ids["head"],
            head_logp=logp_C[arrays["head_p"]],
            head_n=n["head"],
            tail_NH=mass_C[tail_NH],
            lse_NH=lse_NH,
            token_logp_N=arrays["token_logp"].astype(np.float32),
            entropy_N=entropy_N,
            draw_ids=ids["draw"],
            draw_logp=logp_C[arrays["draw_p"]],
            draw_n=n["draw"],
            union_ids=ids["union"],
            union_logp=logp_C[arrays["union_p"]],
            union_n=n["union"],
            union_tail_NH=mass_C[tail_NH - arrays["union_tail"]],
        )

    def _codes(self, logp: NDArray[Any]) -> NDArray[np.uint8]:
        assert not np.isnan(logp).any(), "a log-prob is NaN"
        _, edges = _table(self.levels, self.floor_nats)
        return (np.searchsorted(edges, logp.astype(np.float64)) + 1).astype(np.uint8)

    def _mass_codes(self, mass: NDArray[Any]) -> NDArray[np.uint8]:
        positive = mass > 0  # rounding leaves -1e-8 where everything is inside the head
        logp = np.log(np.where(positive, mass, 1).astype(np.float64))
        assert not np.isnan(mass).any(), "a mass is NaN"
        return np.where(positive, self._codes(logp), 0).astype(np.uint8)


def _lowest_level(levels: int) -> int:
    return int(levels * math.sqrt(_SMALL))


@cache
def _table(levels: int, floor_nats: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[256] log-prob of each code, ascending strictly from -inf, and the [254] edges between codes 1 to 255.

    An edge lies midway between its neighbours, in sqrt(p) or in log(p) as its branch has it.
    """
    lowest = _lowest_level(levels)
    upper = 2 * np.log(np.arange(lowest, levels + 1) / levels)
    lower = np.linspace(-floor_nats, upper[0], 256 - len(upper))[:-1]
    logp_C = np.concatenate([[-np.inf], lower, upper])
    half_levels = np.arange(lowest, levels) + 0.5
    codes = np.concatenate([lower, upper[:1]])
    edges = np.concatenate([(codes[:-1] + codes[1:]) / 2, 2 * np.log(half_levels / levels)])
    return logp_C, edges


def _counts(n_N: Ints, dtype: type[np.unsignedinteger[Any]], group: str) -> NDArray[Any]:
    most, limit = int(n_N.max(initial=0)), int(np.iinfo(dtype).max)
    if most > limit:
        raise StoreError(
            f"{group} entries",
            expected=f"at most {limit} at a position",
            got=most,
            remedy="lower the cap in params.yaml",
        )
    return n_N.astype(dtype)


def _to_gaps(
    ids: Ints, n_N: Ints, rank_of_token: NDArray[Any], *, distinct: bool
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """The order that sorts each position's entries by rank, and the gaps of the sorted ranks."""
    vocab = len(rank_of_token)
    assert int(n_N.sum()) == len(ids), "counts and entries differ"
    assert not len(ids) or (ids.min() >= 0 and ids.max() < vocab), "a token id outside the vocabulary"
    position = np.repeat(np.arange(len(n_N), dtype=np.int64), n_N)
    place = position * vocab + rank_of_token[ids]
    order = np.argsort(place, kind="stable")
    place = place[order]
    gaps = np.diff(place, prepend=0)
    assert not distinct or (gaps[1:] > 0).all(), "a token twice at a position"
    gaps -= distinct
    starts = _starts(n_N)
    gaps[starts] = place[starts] - position[starts] * vocab
    return order, gaps.astype(np.uint16 if vocab <= 1 << 16 else np.uint32)


def _from_gaps(gaps: NDArray[Any], n_N: Ints, *, distinct: bool) -> NDArray[np.uint32]:
    """Ranks: a running sum that begins anew at every position. It may run over: differences are exact modulo 2^32."""
    starts = _starts(n_N)
    steps = gaps.astype(np.uint32)
    steps += distinct
    steps[starts] -= np.uint32(distinct)
    ranks = np.cumsum(steps, dtype=np.uint32)
    ranks -= np.repeat(ranks[starts] - steps[starts], n_N[n_N > 0])
    return ranks


def _starts(n_N: Ints) -> NDArray[np.int64]:
    """Index of the first entry of every position that has one."""
    occupied = n_N[n_N > 0].astype(np.int64)
    return np.cumsum(occupied) - occupied


CODECS: dict[str, Codec] = {"sqrt8": Sqrt8(levels=128, floor_nats=20.0)}
"""What a new segment may be written with. A name stands for a whole configuration, which the manifest spells out."""


def build_codec(name: str, config: dict[str, Any]) -> Codec:
    """The codec that a manifest describes; a StoreError when this version does not know it."""
    if name not in CODECS:
        known = ", ".join(CODECS)
        raise StoreError("codec", expected=f"one of: {known}", got=repr(name), remedy="use the version that wrote it")
    try:
        return type(CODECS[name])(**config)
    except (TypeError, ValueError) as error:
        raise StoreError(
            f"codec {name}", expected="its configuration", got=str(error), remedy="use the version that wrote it"
        ) from error


def config_of(codec: Codec) -> dict[str, Any]:
    """The configuration as a manifest stores it; `build_codec` takes it back."""
    return {field.name: getattr(codec, field.name) for field in fields(codec)}  # type: ignore[arg-type]


def _group_of(name: str) -> str:
    """Along which counts a field of `Scores` runs: head, draw or union entries, or positions."""
    return next((one for one in ("head", "draw", "union") if name in (f"{one}_ids", f"{one}_logp")), "position")


GROUP_OF_FIELD = {field.name: _group_of(field.name) for field in fields(Scores)}


def join_scores(parts: Sequence[Scores], temperatures: int) -> Scores:
    """Scores of sequences laid end to end; none give empty arrays."""
    empty: dict[str, NDArray[Any]] = {}
    for name in GROUP_OF_FIELD:
        dtype = np.int32 if name.endswith(("_ids", "_n")) else np.float32
        empty[name] = np.zeros((0, temperatures) if name.endswith("_NH") else 0, dtype)
    return Scores(
        **{name: np.concatenate([first, *(getattr(one, name) for one in parts)]) for name, first in empty.items()}
    )


def cut_scores(scores: Scores, window: Mapping[str, slice]) -> Scores:
    """Views of the entries and positions in `window`, which has a slice for every group."""
    return Scores(**{name: getattr(scores, name)[window[group]] for name, group in GROUP_OF_FIELD.items()})
