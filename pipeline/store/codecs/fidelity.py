"""How far decoded scores are from what was encoded: measured while a segment is written, held against the promise.

Cost: .05 s for 4,096 positions with 18 entries each; no more are compared. They are spread evenly, and which ones
they are depends on the number of positions alone.
Not taken: all positions, at three times the cost of encoding them.

Array suffixes: see `pipeline.core.types`.
"""

import numpy as np
from numpy.typing import NDArray

from pipeline.core.types import Entries, Scores
from pipeline.runtime.errors import StoreError
from pipeline.store.codecs.base import MOST_G, SMALL_P, Arrays, Codec
from pipeline.store.ragged import ENTRIES, owners, pick_positions
from schemas.manifest import Measured

_MOST_POSITIONS = 4096


def measure(scores: Scores, decoded: Scores, codec: Codec) -> Measured:
    """The errors of a sample; a StoreError where they exceed the codec's bounds."""
    chosen_N = _spread(len(scores))
    before, after = (pick_positions(one, chosen_N) for one in (scores, decoded))
    for name, error in _by_position(before, after).items():
        _kept(codec, name, error)
    ps, qs = _probabilities(before), _probabilities(after)
    compared = [name for name in ps if name != "tail_samples" or not codec.bounds.draws_estimated]
    p, q = (np.concatenate([one[name].ravel() for name in compared]) for one in (ps, qs))
    sqrt_error, large = np.abs(np.sqrt(p) - np.sqrt(q)), p >= SMALL_P
    return Measured(
        positions=len(before),
        sqrt_p_max=_figure(_kept(codec, "sqrt_p", sqrt_error)),
        sqrt_p_mean=_figure(sqrt_error.mean() if len(p) else 0.0),
        log_p_max=_figure(_kept(codec, "log_p", np.abs(np.log(p[large] / q[large])))),
        forward_kl=_figure(_forward_kl(ps, qs, before)),
    )


def _by_position(before: Scores, after: Scores) -> dict[str, NDArray[np.float64]]:
    """Errors of what has a bound of its own, as far as the codec reaches."""
    roots = [np.sqrt(np.maximum(one.stats.entropy_NH, 0).astype(np.float64)) for one in (before, after)]
    known_N = before.stats.tail_mean_N >= -MOST_G
    g = [one.stats.tail_mean_N[known_N].astype(np.float64) for one in (before, after)]
    return {"sqrt_entropy": np.abs(roots[0] - roots[1]), "tail_g": np.abs(g[0] - g[1])}


def _kept(codec: Codec, name: str, error: NDArray[np.float64]) -> float:
    """The largest error; a StoreError where the codec promises less."""
    found, most = float(error.max(initial=0)), float(getattr(codec.bounds, name))
    if found > most:
        raise StoreError(
            f"codec {codec.name}",
            expected=f"an error of {name} of at most {most:.4g}",
            got=f"{found:.4g}",
            remedy="choose another scoring.codec and report this one",
        )
    return found


def _spread(positions: int) -> NDArray[np.bool_]:
    """Which positions are compared."""
    count = min(positions, _MOST_POSITIONS)
    chosen_N = np.zeros(positions, dtype=np.bool_)
    chosen_N[np.arange(count) * positions // max(count, 1)] = True
    return chosen_N


def _probabilities(scores: Scores) -> Arrays:
    """Of the entries of each group by position and token, the masses [N, H], and of the realised tokens [N]."""
    stats = scores.stats
    masses = {"tail": stats.tail_NH, "student_tail": stats.student_tail_NH, "token": np.exp(stats.token_logp_N)}
    return {name: _entries(getattr(scores, name)) for name in ENTRIES} | {
        name: np.maximum(mass_NH, 0).astype(np.float64)  # rounding leaves -1e-8 where nothing is outside
        for name, mass_NH in masses.items()
    }


def _entries(entries: Entries) -> NDArray[np.float64]:
    order = np.lexsort((entries.logp, entries.ids, owners(entries.counts)))
    p: NDArray[np.float64] = np.exp(entries.logp[order].astype(np.float64))
    return p


def _forward_kl(ps: Arrays, qs: Arrays, scores: Scores) -> float:
    """Mean nats over positions between the rows of head, union and any other token, each row made a distribution."""
    positions = len(scores)
    owner = np.concatenate([owners(scores.top.counts), owners(scores.student.counts), np.arange(positions)])
    p, q = (_row(one, owner, positions) for one in (ps, qs))
    held = p > 0
    return float((p[held] * np.log(p[held] / q[held])).sum() / max(positions, 1))


def _row(ps: Arrays, owner: NDArray[np.int64], positions: int) -> NDArray[np.float64]:
    p = np.concatenate([ps["top"], ps["student"], ps["student_tail"][:, 0]])
    total_N = np.bincount(owner, weights=p, minlength=positions)
    row: NDArray[np.float64] = p / np.where(total_N > 0, total_N, 1)[owner]
    return row


def _figure(value: float) -> float:
    """Four digits: more tell nobody anything."""
    return float(f"{value:.4g}")
