"""Where the store holds a score, and which of its segments nobody needs: SQL over the indexes of all segments.

Guarantee: nothing is written and nothing is kept; a question reads the files that exist now. `find_known` is one query,
however many keys there are.
Cost: among a million stored sequences in 50 segments .1 s of CPU time for 1,000 keys and .5 s for 100,000, half of the
latter in Python (`python -m bench.store.lookup`), and about .5 ms for each further file to open: ask once a stage and
never once a step. Not taken: a database or Arrow file beside the segments (a second truth, which two writers would have
to share); joining on the sequence's and the support's key, 64 characters each (three times the CPU time for 1,000
keys).
"""

from collections.abc import Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from pipeline.runtime.errors import StoreError
from pipeline.runtime.files import visible_files
from pipeline.store.keys import Key, score_keys
from pipeline.store.store import Location
from schemas.segment import FORMAT, INDEXES

_ATTEMPTS = 3  # a segment that vanishes while it is asked for is left out of the next attempt

_FIND = """
    SELECT score_key, filename, file_row_number
    FROM read_parquet(?, filename = true, file_row_number = true) SEMI JOIN wanted USING (score_key)
    ORDER BY filename, file_row_number
"""


def find_known(store_root: Path, scorer: str, keys: Sequence[Key]) -> list[Location]:
    """Where the store holds each key that `scorer` has scored, ordered by segment and row; other keys are left out."""
    key_of = dict(zip(score_keys(scorer, keys), keys, strict=True))
    failure = ""
    for _ in range(_ATTEMPTS):
        files = visible_files(store_root, INDEXES)
        if not files or not keys:
            return []
        try:
            rows = _find(files, pa.table({"score_key": pa.array(key_of, pa.binary())}))
        except duckdb.Error as error:
            failure = str(error).splitlines()[0]
            continue
        segment_of = {file: Path(file).parent.name for file in files}
        found: dict[bytes, Location] = {}
        for found_key, file, row in rows:  # a key that two writers scored at once is taken from the first segment
            found.setdefault(found_key, Location(key=key_of[found_key], segment=segment_of[file], row=row))
        return list(found.values())
    raise StoreError(
        store_root / "segments",
        expected=f"readable indexes of {FORMAT}",
        got=failure,
        remedy="delete the segment it names, or all of them where an older version wrote them",
    )


def _find(files: list[str], wanted: pa.Table) -> list[tuple[bytes, str, int]]:
    with duckdb.connect() as connection:
        connection.register("wanted", wanted)
        rows: list[tuple[bytes, str, int]] = connection.execute(_FIND, [files]).fetchall()
        return rows
