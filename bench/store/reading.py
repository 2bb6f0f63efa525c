"""How fast scores come back from a segment on one core: decoded, as padded batches, and one sequence at a time.

    python -m bench.store.reading --json FILE

The segment is synthetic and lies in the page cache: 4,200 sequences of 40-200 positions, V = 49152. `near` has entries
as the default support has of a student near its teacher, on average 10 of the head, 2.7 of the union and .4 draws a
position, `wide` 18, 3 and 3; spread as unevenly as a teacher's, and padded to the widest position of a batch
(`widest`). Seconds are those of the processor, the best of five, so that a neighbour's work counts little. `zarrs`
reads the chunks where it is installed, else `pipeline.store.zarr_payload` itself; the first column says so. What is
done once for all rollouts, however many passes over them follow, has a row of its own.
"""

import importlib.util
import itertools
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np
import torch
import zarr

from bench.clock import timed
from bench.output import Row, show
from bench.store.segments import NEAR, WIDE, Widths, nameless, synthetic_scores
from pipeline.core.types import Rollout
from pipeline.store.ragged import split_scores
from pipeline.store.records import ScoredSequence
from pipeline.store.segment_reader import Segment
from pipeline.store.segment_writer import write_segment
from pipeline.training.batches import BatchParams, Pick, iter_batches, make_pool, open_pool, plan_steps
from pipeline.training.loop import to_torch

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded

VOCAB = 49152


@click.command(help=__doc__)
@click.option("--json", "out", type=Path, help="Write the rows here as well.")
@click.option("--sequences", default=4200, show_default=True)
@click.option("--window", default=1024, show_default=True, help="Sequences decoded together.")
def main(out: Path | None, sequences: int, window: int) -> None:
    torch.set_num_threads(1)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, zarr.config.set({"async.concurrency": 1, "threading.max_workers": 1}):
        for entries, widths in (("near", NEAR), ("wide", WIDE)):
            path = Path(folder) / entries
            rollouts = _write(path, sequences, widths)
            rows += [{"entries": entries} | row for row in _measure(rollouts, Segment.open(path), window)]
    table = [["reader", "entries", "name", "widest", "positions", "seconds", "positions/s"]]
    table += [
        [
            one["reader"],
            one["entries"],
            one["name"],
            str(one.get("widest", "")),
            f"{one['positions']:,}",
            f"{one['seconds']:.2f}",
            f"{one['positions_per_s']:,.0f}",
        ]
        for one in rows
    ]
    show(table, rows, out)


def _measure(rollouts: Sequence[Rollout], segment: Segment, window: int) -> list[Row]:
    ends = [*range(0, len(segment), window), len(segment)]
    positions = segment.manifest.positions

    def decode() -> None:
        for start, stop in itertools.pairwise(ends):
            segment.read_stretches(start, stop)

    rows = [_timed(f"windows of {window}, decoded", positions, decode)]
    for size in (8, 64):
        p = BatchParams(
            batch_size=size,
            micro_batch_size=size,
            student_fraction=1.0,
            corpus_weights=None,
            shuffle_window=window,
            scale_rewards="none",
        )
        own, corpus = open_pool(rollouts, segment, p), make_pool([], segment, p)
        planned = plan_steps(own, corpus, p, key=(0,), steps=range(len(segment) // size), replay=0.0)
        seen: list[tuple[int, int]] = []

        def collate(planned: list[list[list[Pick]]] = planned, seen: list[tuple[int, int]] = seen) -> None:
            seen.clear()
            for (batch,) in iter_batches(planned, temperature=1.0, column=0):
                seen.append(tuple(to_torch(batch, torch.device("cpu")).ids_NK.shape))

        row = _timed(f"... in batches of {size}, as tensors", positions, collate)
        rows.append(row | {"widest": max(width for _, width in seen)})
    rows.append(_timed("once: a pool opened", positions, lambda: open_pool(rollouts, segment, p)))
    some = np.random.default_rng(0).permutation(len(segment))[:50].tolist()
    few = sum(len(rollouts[row].completion_ids) for row in some)
    rows.append(_timed("one sequence at a time", few, lambda: [segment.read(row, row + 1) for row in some]))
    return rows


def _timed(name: str, positions: int, act: Callable[[], object]) -> Row:
    """The best of five, in seconds of the processor."""
    seconds = min(timed(act)["seconds_of_processor"] for _ in range(5))
    reader = "own" if importlib.util.find_spec("zarrs") is None else "zarrs"
    rate = round(positions / seconds)
    return {"reader": reader, "name": name, "positions": positions, "seconds": seconds, "positions_per_s": rate}


def _write(path: Path, count: int, widths: Widths) -> list[Rollout]:
    rng = np.random.default_rng(0)
    lengths_B = rng.integers(40, 201, count)
    cut_B = np.cumsum(lengths_B)[:-1]
    positions = int(lengths_B.sum())
    scores, tokens = synthetic_scores(rng, positions, VOCAB, widths), rng.integers(0, VOCAB, positions)
    rollouts = [
        Rollout(
            rollout_id=str(at),
            prompt_id=str(at // 4),
            source="student",
            policy="",
            prompt_ids=[at // 4] * 60,
            completion_ids=completion.tolist(),
            behaviour_logp=[-1.0] * len(completion),
            support_ids=[],
            tail_sample_ids=[],
            tail_offset=[],
            finished=False,
            text="",
        )
        for at, completion in enumerate(np.split(tokens, cut_B))
    ]
    parts = split_scores(scores, lengths_B)
    sequences = [ScoredSequence(rollout=one, scores=part) for one, part in zip(rollouts, parts, strict=True)]
    write_segment(path, sequences, nameless("sqrt8", VOCAB), rng.permutation(VOCAB))
    return rollouts


if __name__ == "__main__":
    main()
