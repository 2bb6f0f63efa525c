"""Where the store holds a score, and which of its segments nobody needs: SQL over the indexes of all segments.

Guarantee: nothing is written and nothing is kept; a question reads the files that exist now. `find_known` is one query,
however many keys there are.
Cost: among a million stored sequences in 50 segments .1 s of CPU time for 1,000 keys and .5 s for 100,000, half of the
latter in Python (`python -m bench.lookup`), and about .5 ms for each further file to open: ask once a stage and never
once a step.
Not taken: a database or Arrow file beside the segments (a second truth, which two writers would have to share);
joining on the sequence's and the support's key, 64 characters each (three times the CPU time for 1,000 keys).
"""

from collections.abc import Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from pipeline.errors import StoreError
from pipeline.sequences import Key, score_keys
from pipeline.store import Location
from schemas.segment import FORMAT

INDEXES = "segments/*/index.parquet"
_ATTEMPTS = 3  # a segment that vanishes while it is asked for is left out of the next attempt

_FIND = """
    SELECT score_key, filename, file_row_number
    FROM read_parquet(?, filename = true, file_row_number = true) SEMI JOIN wanted USING (score_key)
    ORDER BY filename, file_row_number
"""

_UNNEEDED = """
    SELECT filename FROM read_parquet($stored, filename = true) GROUP BY filename
    HAVING NOT bool_or(score_key IN (SELECT score_key FROM read_parquet($needed)))
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


def unneeded(store_root: Path, works: Sequence[Path]) -> set[str]:
    """Names of the store's segments that hold no score which is in a segment under one of the `works`."""
    stored = visible_files(store_root, INDEXES)
    needed = [file for work in works for file in visible_files(work, "**/index.parquet")]
    if not stored or not needed:
        return {Path(file).parent.name for file in stored}
    with duckdb.connect() as connection:
        try:
            rows = connection.execute(_UNNEEDED, {"stored": stored, "needed": needed}).fetchall()
        except duckdb.Error as error:
            got = str(error).splitlines()[0]
            raise StoreError(
                store_root, expected="readable indexes", got=got, remedy="run `stillroom store repair`"
            ) from error
    return {Path(file).parent.name for (file,) in rows}


def visible_files(root: Path, pattern: str) -> list[str]:
    """Files that hold something, without those of unfinished writes; sorted."""
    visible = (
        path
        for path in sorted(root.glob(pattern))
        if not any(part.startswith(".") for part in path.relative_to(root).parts)
    )
    return [str(path) for path in visible if _holds_something(path)]


def _holds_something(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:  # removed since the directory was listed
        return False
