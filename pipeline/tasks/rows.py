"""The rows of one split of a data set, from the hub or from a directory: the only module that knows `datasets`.

Guarantee: nothing is written beside the data. Files of a directory are streamed, so that they leave no copy; what
comes from the hub lands in the cache of `datasets` (HF_HOME), and HF_DATASETS_OFFLINE and HF_HUB_OFFLINE are heeded.
Cost: 7,473 rows of JSON in 0.3 s; a hub that cannot be reached takes 23 s to say so unless HF_HUB_OFFLINE=1 is set.
Not taken: pyarrow's readers for the directory, a second set of rules for quoting, types and missing values.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import DataError

_BUILDERS = {".jsonl": "json", ".parquet": "parquet", ".csv": "csv"}  # the first file found is taken


def iter_rows(data: str, *, config: str | None, split: str, columns: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The named columns of each row, as text.

    `data` is a directory that holds <split>.jsonl, .parquet or .csv, or else a name on the hub, to which alone
    `config` applies. A DataError says what is wrong with the place, the split, a column or a value.
    """
    where = f"{data} ({split})"
    number = -1
    for number, row in enumerate(_rows(data, config, split, where=where)):
        yield tuple(_text(row, column, where=f"{where} row {number}") for column in columns)
    if number < 0:
        raise DataError(where, expected="rows", got="none", remedy="name another split in task.settings")


def _rows(data: str, config: str | None, split: str, *, where: str) -> Iterator[dict[str, Any]]:
    # Imported here: half a second that only data from outside needs.
    from datasets import load_dataset

    directory = Path(data).expanduser()
    try:
        if directory.is_dir():
            file = _file(directory, split)
            yield from load_dataset(_BUILDERS[file.suffix], data_files=str(file), split="train", streaming=True)
        else:
            yield from load_dataset(data, config, split=split)
    except DataError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # no network, no such name or split, a damaged file
        raise DataError(
            where,
            expected="rows of a directory's file or of a data set on the hub",
            got=" ".join(str(error).split()) or type(error).__name__,
            remedy="mend the file or task.settings; a name on the hub needs the network once, to fill its cache",
        ) from error


def _file(directory: Path, split: str) -> Path:
    for suffix in _BUILDERS:
        if (file := directory / f"{split}{suffix}").is_file():
            return file
    names = ", ".join(f"{split}{suffix}" for suffix in _BUILDERS)
    found = ", ".join(sorted(path.name for path in directory.iterdir())) or "an empty directory"
    raise DataError(directory, expected=f"one of: {names}", got=found, remedy="correct the splits in task.settings")


def _text(row: dict[str, Any], column: str, *, where: str) -> str:
    if column not in row:
        known = ", ".join(row)
        raise DataError(where, expected=f"a column {column!r}", got=f"columns {known}", remedy="mend task.settings")
    value = row[column]
    if not isinstance(value, str):
        raise DataError(
            f"{where}.{column}", expected="text", got=type(value).__name__, remedy="mend the data or task.settings"
        )
    return value
