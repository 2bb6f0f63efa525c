"""Join and split scores, which are ragged arrays.

Entries run along the counts of their group, and statistics along positions. Splitting gives views and copies nothing.

Array suffixes: see `pipeline.core.types`; B sequences.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.types import Entries, Ints, PositionStats, Scores

# Fields of `Scores` that hold entries; the remaining field, `stats`, runs along positions.
ENTRIES = ("top", "tail_samples", "student")
_STATS = tuple(field.name for field in fields(PositionStats))


def join_scores(parts: Sequence[Scores], temperatures: int) -> Scores:
    """Return the scores of sequences laid end to end; without parts, empty arrays for so many temperatures."""
    none_NH, none_N = np.zeros((0, temperatures), np.float32), np.zeros(0, np.float32)
    empty = Scores.of_top(Entries.none(0), tail_NH=none_NH, entropy_NH=none_NH, token_logp_N=none_N)
    joined: Scores = _join([empty, *parts])
    return joined


def _join(records: Sequence[Any]) -> Any:
    """Return a record of the same class, whose arrays and records are those of all records laid end to end."""
    kind = type(records[0])
    if kind is np.ndarray:
        return np.concatenate(records)
    return kind(**{field.name: _join([getattr(record, field.name) for record in records]) for field in fields(kind)})


def split_scores(scores: Scores, positions_B: NDArray[Any]) -> list[Scores]:
    """Return views of the scores of each sequence: the inverse of `join_scores`."""
    bounds = sequence_bounds(scores, positions_B)
    return [
        _pick(scores, {axis: slice(int(ends[b]), int(ends[b + 1])) for axis, ends in bounds.items()})
        for b in range(len(positions_B))
    ]


def sequence_bounds(scores: Scores, positions_B: NDArray[Any]) -> dict[str, NDArray[np.int64]]:
    """Return, for each field of `Scores`, where each sequence's entries or positions begin and the last ones end.

    Returns:
        Offsets [B + 1] by field.
    """
    ends_B = offsets(positions_B)
    assert ends_B[-1] == len(scores), "positions and scores differ"
    return {name: offsets(getattr(scores, name).counts)[ends_B] for name in ENTRIES} | {"stats": ends_B}


def pick_positions(scores: Scores, chosen_N: NDArray[np.bool_]) -> Scores:
    """Return copies of the chosen positions with their entries."""
    chosen = {name: np.repeat(chosen_N, getattr(scores, name).counts) for name in ENTRIES}
    return _pick(scores, chosen | {"stats": chosen_N})


def _pick(scores: Scores, chosen: Mapping[str, Any]) -> Scores:
    """Return chosen entries and positions, by a slice or a mask for each field."""
    positions = chosen["stats"]

    def entries(name: str) -> Entries:
        every: Entries = getattr(scores, name)
        return Entries(ids=every.ids[chosen[name]], logp=every.logp[chosen[name]], counts=every.counts[positions])

    return Scores(
        **{name: entries(name) for name in ENTRIES},
        stats=PositionStats(**{name: getattr(scores.stats, name)[positions] for name in _STATS}),
    )


def offsets(counts_N: NDArray[Any]) -> NDArray[np.int64]:
    """Return where each position's entries begin, and the end of the last ones [N + 1]."""
    return np.append(0, np.cumsum(counts_N, dtype=np.int64))


def starts(counts_N: NDArray[Any]) -> NDArray[np.int64]:
    """Return where each position's entries begin [N]."""
    starts_N: NDArray[np.int64] = np.cumsum(counts_N, dtype=np.int64)
    starts_N -= counts_N
    return starts_N


def owners(counts_N: Ints) -> NDArray[np.int64]:
    """Return the position of every entry [E]."""
    return spread(np.arange(len(counts_N), dtype=np.int64), counts_N)


def spread(values_N: NDArray[Any], counts_N: Ints) -> NDArray[Any]:
    """Return for every entry the value of its position [E]."""
    return np.repeat(values_N, counts_N.astype(np.int64))  # takes two thirds of the time of int32 counts


def reduced(by: np.ufunc, values: NDArray[Any], counts_N: Ints) -> NDArray[Any]:
    """Return the entries of each position combined by a ufunc (np.add, np.maximum) [N]; 0 where there are none."""
    reduced_N = np.zeros(len(counts_N), values.dtype)
    if len(values):
        filled_N = counts_N > 0  # reduceat would give a position without entries the next one's value
        reduced_N[filled_N] = by.reduceat(values, starts(counts_N)[filled_N])
    return reduced_N
