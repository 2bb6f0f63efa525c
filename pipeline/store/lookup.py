"""Find scores in the store: one SQL query over the indexes of all segments, however many keys there are.

* A query reads the files that exist at that time; nothing is written or cached.
* Cost (`python -m bench.store.lookup`): among a million stored sequences in 50 segments, 0.1 s of CPU time for 1,000
  keys and 0.5 s for 100,000 keys, and about 0.5 ms per further segment. Call it once per stage, never once per step.
"""

from collections.abc import Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from pipeline.runtime.errors import StoreError
from pipeline.runtime.files import literal_patterns, visible_files
from pipeline.store.keys import Key, score_keys
from pipeline.store.store import Location
from schemas.segment import FORMAT, INDEXES

_ATTEMPTS = 3  # a segment that is deleted during a query is not part of the next attempt

_FIND = """
    SELECT score_key, filename, file_row_number
    FROM read_parquet(?, filename = true, file_row_number = true, hive_partitioning = false)
    SEMI JOIN requested USING (score_key)
    ORDER BY filename, file_row_number
"""


def find_known(store_root: Path, scorer: str, keys: Sequence[Key]) -> list[Location]:
    """Return where the store holds the scores of these keys, ordered by segment and row.

    Args:
        store_root: The directory of the store.
        scorer: The fingerprint of the scorer; scores of other scorers do not count.
        keys: Keys of sequences. Those without a score in the store are not in the result.

    Raises:
        StoreError: An index is damaged or was written by another version.
    """
    key_of = dict(zip(score_keys(scorer, keys), keys, strict=True))
    failure = ""
    for _ in range(_ATTEMPTS):
        files = visible_files(store_root, INDEXES)
        if not files or not keys:
            return []
        try:
            with duckdb.connect() as connection:
                connection.register("requested", pa.table({"score_key": pa.array(key_of, pa.binary())}))
                rows = connection.execute(_FIND, [literal_patterns(files)]).fetchall()
        except duckdb.Error as error:
            failure = str(error).splitlines()[0]
            continue
        segment_of = {file: Path(file).parent.name for file in files}
        locations: dict[bytes, Location] = {}
        for score_key, file, row in rows:  # if two writers stored a key at the same time, the first segment counts
            locations.setdefault(score_key, Location(key=key_of[score_key], segment=segment_of[file], row=row))
        return list(locations.values())
    raise StoreError(
        store_root / "segments",
        expected=f"readable indexes of {FORMAT}",
        got=failure,
        remedy="delete the segment that the error names, or all segments if an older version wrote them",
    )
