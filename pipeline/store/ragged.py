"""Scores as ragged arrays: laid end to end, cut apart again, thinned out.

Group by group: head, draw and union entries run along their own counts, everything else along positions. Cutting gives
views and costs no copy.

Array suffixes: see `pipeline.core.types`; B sequences.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.core.types import Ints, Scores

GROUPS = ("head", "draw", "union")
_DTYPES: dict[str, Any] = {"realised_only_N": np.bool_}


def _group_of(name: str) -> str:
    """Along which counts a field of `Scores` runs."""
    return next((one for one in GROUPS if name in (f"{one}_ids", f"{one}_logp")), "position")


GROUP_OF_FIELD = {field.name: _group_of(field.name) for field in fields(Scores)}


def join_scores(parts: Sequence[Scores], temperatures: int) -> Scores:
    """Scores of sequences laid end to end; none give empty arrays."""
    empty: dict[str, NDArray[Any]] = {}
    for name in GROUP_OF_FIELD:
        dtype = _DTYPES.get(name, np.int32 if name.endswith(("_ids", "_n")) else np.float32)
        empty[name] = np.zeros((0, temperatures) if name.endswith("_NH") else 0, dtype)
    return Scores(
        **{name: np.concatenate([first, *(getattr(one, name) for one in parts)]) for name, first in empty.items()}
    )


def split_scores(scores: Scores, positions_B: NDArray[Any]) -> list[Scores]:
    """Views of the scores of each sequence: the inverse of `join_scores`."""
    ends = sequence_bounds(scores, positions_B)
    return [
        _pick(scores, {group: slice(int(end[b]), int(end[b + 1])) for group, end in ends.items()})
        for b in range(len(positions_B))
    ]


def sequence_bounds(scores: Scores, positions_B: NDArray[Any]) -> dict[str, NDArray[np.int64]]:
    """[B + 1] Where each sequence's entries of each group and its positions begin, and the end of all."""
    ends_B = offsets(positions_B)
    assert ends_B[-1] == len(scores.head_n), "positions and scores differ"
    return {group: offsets(getattr(scores, f"{group}_n"))[ends_B] for group in GROUPS} | {"position": ends_B}


def pick_positions(scores: Scores, chosen_N: NDArray[np.bool_]) -> Scores:
    """Copies of the chosen positions with their entries."""
    chosen = {group: np.repeat(chosen_N, getattr(scores, f"{group}_n")) for group in GROUPS}
    return _pick(scores, chosen | {"position": chosen_N})


def offsets(n_N: NDArray[Any]) -> NDArray[np.int64]:
    """[N + 1] Where each position's entries begin, and the end of all."""
    return np.append(0, np.cumsum(n_N, dtype=np.int64))


def starts(n_N: NDArray[Any]) -> NDArray[np.int64]:
    """[N] Where each position's entries begin."""
    starts_N: NDArray[np.int64] = np.cumsum(n_N, dtype=np.int64)
    starts_N -= n_N
    return starts_N


def owners(n_N: Ints) -> NDArray[np.int64]:
    """The position of every entry."""
    return spread(np.arange(len(n_N), dtype=np.int64), n_N)


def spread(values_N: NDArray[Any], n_N: Ints) -> NDArray[Any]:
    """The value of its position for every entry."""
    return np.repeat(values_N, n_N.astype(np.int64))  # which takes two thirds of the time that other counts take


def reduced(by: np.ufunc, values: NDArray[Any], n_N: Ints) -> NDArray[Any]:
    """[N] The entries of each position taken together (np.add, np.maximum); 0 where there are none."""
    reduced_N = np.zeros(len(n_N), values.dtype)
    if len(values):
        some_N = n_N > 0  # reduceat would give an empty row its neighbour's value
        reduced_N[some_N] = by.reduceat(values, starts(n_N)[some_N])
    return reduced_N


def _pick(scores: Scores, chosen: Mapping[str, slice | NDArray[np.bool_]]) -> Scores:
    return Scores(**{name: getattr(scores, name)[chosen[group]] for name, group in GROUP_OF_FIELD.items()})
