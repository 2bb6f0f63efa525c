"""Measure the cost of a look-up: `find_known` over a synthetic store of a million sequences, beside a join on hex keys.

    python -m bench.store.lookup --json FILE

The store has indexes alone, with random keys, written as `pipeline.store.segment_writer` writes them. Half of the keys
of a look-up are in the store. A cold measurement starts after the kernel was asked to drop the indexes from its page
cache. Processor time is the figure that other work on the machine disturbs least. The benchmark takes a minute.
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
from pipeline.runtime.files import literal_patterns, visible_files
from pipeline.store.keys import Key, score_keys
from pipeline.store.lookup import find_known
from pipeline.store.segment_writer import write_index
from schemas.segment import INDEX, INDEXES

_SCORER = "5c" * 16
_HEX_KEYS = """
    SELECT sequence_key, support_key, min({'file': filename, 'row': file_row_number}) AS place
    FROM read_parquet(?, filename = true, file_row_number = true, hive_partitioning = false)
    JOIN queried USING (sequence_key, support_key)
    WHERE scorer = ? GROUP BY sequence_key, support_key ORDER BY place
"""


@click.command(help=__doc__)
@click.option("--json", "out", type=Path, help="Write the rows here as well.")
@click.option("--sequences", default=1_000_000, show_default=True, help="Sequences in the store.")
@click.option("--segments", default=50, show_default=True, help="Segments over which the sequences are spread evenly.")
@click.option("--keys", "counts", multiple=True, default=(1_000, 100_000), show_default=True, help="Keys of a look-up.")
@click.option("--repeats", default=5, show_default=True, help="Repeats of each measurement.")
def main(out: Path | None, sequences: int, segments: int, counts: tuple[int, ...], repeats: int) -> None:
    """Run the benchmark and print its table."""
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        keys = [key for segment in range(segments) for key in _write(store, segment, sequences // segments)]
        rows = []
        for count in counts:
            queried = _half_known(keys, count)
            for used in sorted({1, len(cores)}):
                os.sched_setaffinity(0, cores[:used])  # DuckDB starts as many threads as there are cores to run on
                where = f"{count:,} keys, {used} core" + "s" * (used > 1)
                look_up = partial(find_known, store, _SCORER, queried)
                rows += [
                    _timed(f"find_known, {where}", repeats, look_up),
                    _timed(f"find_known, {where}, cold", repeats, look_up, forget=store),
                    _timed(f"both hex keys, {where}", repeats, partial(_join_hex_keys, store, queried)),
                ]
    columns = {"seconds": "median ms", "least_seconds": "least ms", "seconds_of_processor": "CPU ms"}
    table = [["name", *columns.values()]]
    table += [[row["name"], *(f"{row[column] * 1e3:,.0f}" for column in columns)] for row in rows]
    show(table, rows, out, sequences=sequences, segments=segments)


def _write(store: Path, segment: int, count: int) -> list[Key]:
    """Write the index of one segment, and return its keys."""
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


def _half_known(keys: Sequence[Key], count: int) -> list[Key]:
    """Return keys of the store, and as many keys that the store does not have."""
    generator = np.random.default_rng(0)
    known = [keys[index] for index in generator.choice(len(keys), count // 2, replace=False)]
    return known + [(support, sequence) for sequence, support in known]


def _join_hex_keys(store: Path, queried: Sequence[Key]) -> None:
    sequence_keys, support_keys = ([key[part] for key in queried] for part in (0, 1))
    table = pa.table({"sequence_key": sequence_keys, "support_key": support_keys})
    with duckdb.connect() as connection:
        connection.register("queried", table)
        connection.execute(_HEX_KEYS, [literal_patterns(visible_files(store, INDEXES)), _SCORER]).fetchall()


def _timed(name: str, repeats: int, work: Callable[[], object], *, forget: Path | None = None) -> Row:
    """Return the median and the least of `repeats` times after a warm-up, and the median of their processor time."""
    work()
    times = []
    for _ in range(repeats):
        if forget is not None:
            _forget(forget)
        times.append(timed(work))
    row: Row = {"name": name, "least_seconds": min(time["seconds"] for time in times)}
    return row | {key: statistics.median(time[key] for time in times) for key in CLOCKS}


def _forget(store: Path) -> None:
    """Ask the kernel to drop the indexes from its page cache."""
    for file in visible_files(store, INDEXES):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)  # dirty pages would stay in the cache
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


if __name__ == "__main__":
    main()
