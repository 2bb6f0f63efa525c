"""Measure how fast scores are read from a segment on one core: decoded, as padded batches, and one sequence at a time.

    python -m bench.store.reading --json FILE

The segment is synthetic and in the page cache: 4,200 sequences of 40 to 200 positions, with a vocabulary of 49,152.

- `near` has as many entries as the default truncation stores for a student near its teacher: on average 10 top tokens,
  2.7 student-support tokens and 0.4 tail samples per position. `wide` has 18, 3 and 3. Entries are spread as unevenly
  as a teacher's, and padded to the widest position of a batch (`widest`).
- Seconds are processor time, the best of five, so that other work counts little.
- `zarrs` reads the chunks where it is installed, otherwise `pipeline.store.zarr_payload` itself; the first column names
  the reader.
- Work that is done once per segment, however many passes follow, has a row of its own.
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
from bench.store.segments import NEAR, WIDE, Widths, placeholder_header, synthetic_scores
from pipeline.core.types import Rollout, ScoredSequence
from pipeline.store.ragged import split_scores
from pipeline.store.segment_reader import Segment
from pipeline.store.segment_writer import write_segment
from pipeline.training.batches import BatchParams, Pick, iter_batches, make_pool, open_pool, plan_steps

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded

VOCAB = 49152


@click.command(help=__doc__)
@click.option("--json", "out", type=Path, help="Write the rows here as well.")
@click.option("--sequences", default=4200, show_default=True)
@click.option("--window", default=1024, show_default=True, help="Sequences decoded together.")
def main(out: Path | None, sequences: int, window: int) -> None:
    """Run the benchmark and print its table."""
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
            row["reader"],
            row["entries"],
            row["name"],
            str(row.get("widest", "")),
            f"{row['positions']:,}",
            f"{row['seconds']:.2f}",
            f"{row['positions_per_s']:,.0f}",
        ]
        for row in rows
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
        shapes: list[tuple[int, int]] = []

        def collate(planned: list[list[list[Pick]]] = planned, shapes: list[tuple[int, int]] = shapes) -> None:
            shapes.clear()
            for (batch,) in iter_batches(planned, temperature=1.0, column=0):
                shapes.append(tuple(batch.rows.to(torch.device("cpu")).ids_NK.shape))

        row = _timed(f"... in batches of {size}, as tensors", positions, collate)
        rows.append(row | {"widest": max(width for _, width in shapes)})
    rows.append(_timed("once: the pool is opened", positions, lambda: open_pool(rollouts, segment, p)))
    sample = np.random.default_rng(0).permutation(len(segment))[:50].tolist()
    sampled_positions = sum(len(rollouts[row].completion_ids) for row in sample)
    rows.append(
        _timed("one sequence at a time", sampled_positions, lambda: [segment.read(row, row + 1) for row in sample])
    )
    return rows


def _timed(name: str, positions: int, act: Callable[[], object]) -> Row:
    """Return a row with the best of five times, in seconds of processor time."""
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
            rollout_id=str(index),
            prompt_id=str(index // 4),
            source="student",
            policy="",
            prompt_ids=[index // 4] * 60,
            completion_ids=completion.tolist(),
            behaviour_logp=[-1.0] * len(completion),
            finished=False,
            text="",
        )
        for index, completion in enumerate(np.split(tokens, cut_B))
    ]
    parts = split_scores(scores, lengths_B)
    sequences = [ScoredSequence(rollout=rollout, scores=part) for rollout, part in zip(rollouts, parts, strict=True)]
    write_segment(path, sequences, placeholder_header("sqrt8", VOCAB), rng.permutation(VOCAB))
    return rollouts


if __name__ == "__main__":
    main()
