"""What a plan costs: `find_known` over a synthetic store of a million sequences, beside a join on both hex keys.

    python -m bench.store.lookup --json FILE

The store holds indexes alone, random keys, written as `pipeline.store.segment_reader` writes them. Half of the wanted
keys are known. Cold means that the kernel was told to forget the indexes before. CPU time is the figure that neighbours
on the machine disturb least. A minute in all.
"""

import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import duckdb
import numpy as np
import pyarrow as pa

from bench.clock import CLOCKS, timed
from bench.output import Row, show
from pipeline.runtime.files import visible_files
from pipeline.store.keys import Key, score_keys
from pipeline.store.lookup import find_known
from pipeline.store.segment_writer import write_index
from schemas.segment import INDEX, INDEXES

_SCORER = "5c" * 16
_HEX_KEYS = """
    SELECT sequence_key, support_key, min({'file': filename, 'row': file_row_number}) AS place
    FROM read_parquet(?, filename = true, file_row_number = true) JOIN wanted USING (sequence_key, support_key)
    WHERE scorer = ? GROUP BY sequence_key, support_key ORDER BY place
"""


@click.command(help=__doc__)
@click.option("--json", "out", type=Path, help="Write the rows here as well.")
@click.option("--sequences", default=1_000_000, show_default=True, help="In the store.")
@click.option("--segments", default=50, show_default=True, help="Over which they are spread evenly.")
@click.option("--wanted", "counts", multiple=True, default=(1_000, 100_000), show_default=True, help="Keys of a plan.")
@click.option("--repeats", default=5, show_default=True, help="Of each measurement.")
def main(out: Path | None, sequences: int, segments: int, counts: tuple[int, ...], repeats: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        keys = [key for segment in range(segments) for key in _write(store, segment, sequences // segments)]
        rows = []
        for count in counts:
            wanted = _wanted(keys, count)
            for used in sorted({1, len(cores)}):
                os.sched_setaffinity(0, cores[:used])  # DuckDB starts as many threads as there are cores to run on
                where = f"{count:,} keys, {used} core" + "s" * (used > 1)
                plan = partial(find_known, store, _SCORER, wanted)
                rows += [
                    _timed(f"find_known, {where}", repeats, plan),
                    _timed(f"find_known, {where}, cold", repeats, plan, forget=store),
                    _timed(f"both hex keys, {where}", repeats, partial(_join_hex_keys, store, wanted)),
                ]
    columns = {"seconds": "median ms", "least_seconds": "least ms", "seconds_of_processor": "CPU ms"}
    table = [["name", *columns.values()]]
    table += [[one["name"], *(f"{one[column] * 1e3:,.0f}" for column in columns)] for one in rows]
    show(table, rows, out, sequences=sequences, segments=segments)


def _write(store: Path, segment: int, count: int) -> list[Key]:
    """The index of one segment, and its keys."""
    generator = np.random.default_rng(segment)
    digits = generator.bytes(64 * count).hex()
    keys = [(digits[start : start + 64], digits[start + 64 : start + 128]) for start in range(0, 128 * count, 128)]
    positions_B = generator.integers(20, 200, count)
    columns: dict[str, Any] = {
        "score_key": score_keys(_SCORER, keys),
        "sequence_key": [sequence for sequence, _ in keys],
        "support_key": [support for _, support in keys],
        "scorer": [_SCORER] * count,
        "rollout_id": [f"small-r{segment}/task/{index}/0" for index in range(count)],
        "prompt_id": [f"task/{index}" for index in range(count)],
        "source": ["student"] * count,
        "author": ["a0" * 16] * count,
        "positions": positions_B,
        "ended": positions_B < 150,
    }
    start_B = np.cumsum(positions_B) - positions_B
    columns |= {name: start_B * 8 for name in INDEX.names if name.endswith("_offset")}
    columns |= {name: generator.random(count) for name in INDEX.names if name not in columns}
    arrays = [pa.array(columns[field.name]).cast(field.type) for field in INDEX]
    path = store / "segments" / f"{segment:032x}" / "index.parquet"
    path.parent.mkdir(parents=True)
    write_index(path, pa.Table.from_arrays(arrays, schema=INDEX))
    return keys


def _wanted(keys: Sequence[Key], count: int) -> list[Key]:
    """Keys out of the store, and as many that it does not have."""
    generator = np.random.default_rng(0)
    known = [keys[index] for index in generator.choice(len(keys), count // 2, replace=False)]
    return known + [(support, sequence) for sequence, support in known]


def _join_hex_keys(store: Path, wanted: Sequence[Key]) -> None:
    table = pa.table({"sequence_key": [one for one, _ in wanted], "support_key": [one for _, one in wanted]})
    with duckdb.connect() as connection:
        connection.register("wanted", table)
        connection.execute(_HEX_KEYS, [visible_files(store, INDEXES), _SCORER]).fetchall()


def _timed(name: str, repeats: int, work: Callable[[], object], *, forget: Path | None = None) -> Row:
    """Median and least of `repeats` runs after one that is not counted, and the median of their CPU time."""
    work()
    taken = []
    for _ in range(repeats):
        if forget is not None:
            _forget(forget)
        taken.append(timed(work))
    row: Row = {"name": name, "least_seconds": min(one["seconds"] for one in taken)}
    return row | {key: statistics.median(one[key] for one in taken) for key in CLOCKS}


def _forget(store: Path) -> None:
    """Ask the kernel to drop the indexes from its page cache."""
    for file in visible_files(store, INDEXES):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)  # pages that are not written yet would stay
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


if __name__ == "__main__":
    main()
