"""Measure the errors of decoded scores while a segment is written, and check them against the codec's bounds.

At most 4,096 positions are compared, which takes 0.05 s at 18 entries per position. The positions are spread evenly and
depend only on the number of positions.

Array suffixes: see `pipeline.core.types`.
"""

import numpy as np
from numpy.typing import NDArray

from pipeline.core.types import Entries, Scores
from pipeline.runtime.errors import StoreError
from pipeline.store.codecs.base import LOWEST_TAIL_MEAN, SMALL_P, Arrays, Codec
from pipeline.store.ragged import ENTRIES, owners, pick_positions
from schemas.manifest import Measured

_MOST_POSITIONS = 4096


def measure(scores: Scores, decoded: Scores, codec: Codec) -> Measured:
    """Return the errors at a sample of the positions, to four significant digits.

    Raises:
        StoreError: An error exceeds the codec's bound.
    """
    chosen_N = _spread(len(scores))
    before, after = (pick_positions(whole, chosen_N) for whole in (scores, decoded))
    for name, error in _errors_of_stats(before, after).items():
        _check(codec, name, error)
    ps, qs = _probabilities(before), _probabilities(after)
    compared = [name for name in ps if name != "tail_samples" or not codec.bounds.draws_estimated]
    p, q = (np.concatenate([probabilities[name].ravel() for name in compared]) for probabilities in (ps, qs))
    sqrt_error, large = np.abs(np.sqrt(p) - np.sqrt(q)), p >= SMALL_P
    errors = {
        "sqrt_p_max": _check(codec, "sqrt_p", sqrt_error),
        "sqrt_p_mean": sqrt_error.mean() if len(p) else 0.0,
        "log_p_max": _check(codec, "log_p", np.abs(np.log(p[large] / q[large]))),
        "forward_kl": _forward_kl(ps, qs, before),
    }
    return Measured(positions=len(before), **{name: float(f"{error:.4g}") for name, error in errors.items()})


def _errors_of_stats(before: Scores, after: Scores) -> dict[str, NDArray[np.float64]]:
    """Return the errors of the statistics with bounds of their own, by the name of the bound."""
    both = before.stats, after.stats
    roots = [np.sqrt(np.maximum(stats.entropy_NH, 0).astype(np.float64)) for stats in both]
    in_range_N = before.stats.tail_mean_N >= LOWEST_TAIL_MEAN
    means = [stats.tail_mean_N[in_range_N].astype(np.float64) for stats in both]
    return {"sqrt_entropy": np.abs(roots[0] - roots[1]), "tail_g": np.abs(means[0] - means[1])}


def _check(codec: Codec, name: str, error: NDArray[np.float64]) -> float:
    """Return the largest error; raise a StoreError if it exceeds the codec's bound."""
    largest, bound = float(error.max(initial=0)), float(getattr(codec.bounds, name))
    if largest > bound:
        raise StoreError(
            f"codec {codec.name}",
            expected=f"an error of {name} of at most {bound:.4g}",
            got=f"{largest:.4g}",
            remedy="choose another scoring.codec and report this one",
        )
    return largest


def _spread(positions: int) -> NDArray[np.bool_]:
    """Return a mask of the positions to compare."""
    count = min(positions, _MOST_POSITIONS)
    chosen_N = np.zeros(positions, dtype=np.bool_)
    chosen_N[np.arange(count) * positions // max(count, 1)] = True
    return chosen_N


def _probabilities(scores: Scores) -> Arrays:
    """Return the probabilities of each group's entries by position and token, masses [N, H], and sampled tokens [N]."""
    stats = scores.stats
    masses = {"tail": stats.tail_NH, "student_tail": stats.student_tail_NH, "token": np.exp(stats.token_logp_N)}
    return {name: _entries(getattr(scores, name)) for name in ENTRIES} | {
        name: np.maximum(mass_NH, 0).astype(np.float64)  # rounding leaves -1e-8 where the stored tokens have all mass
        for name, mass_NH in masses.items()
    }


def _entries(entries: Entries) -> NDArray[np.float64]:
    order = np.lexsort((entries.logp, entries.ids, owners(entries.counts)))
    p: NDArray[np.float64] = np.exp(entries.logp[order].astype(np.float64))
    return p


def _forward_kl(ps: Arrays, qs: Arrays, scores: Scores) -> float:
    """Return the mean KL per position, in nats, of stored tokens and other-token bucket, each row normalised."""
    positions = len(scores)
    owner = np.concatenate([owners(scores.top.counts), owners(scores.student.counts), np.arange(positions)])
    p, q = (_normalised(probabilities, owner, positions) for probabilities in (ps, qs))
    positive = p > 0
    return float((p[positive] * np.log(p[positive] / q[positive])).sum() / max(positions, 1))


def _normalised(ps: Arrays, owner: NDArray[np.int64], positions: int) -> NDArray[np.float64]:
    p = np.concatenate([ps["top"], ps["student"], ps["student_tail"][:, 0]])
    total_N = np.bincount(owner, weights=p, minlength=positions)
    row: NDArray[np.float64] = p / np.where(total_N > 0, total_N, 1)[owner]
    return row
