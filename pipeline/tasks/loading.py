"""Read the rows of one split of a data set, from the hub or from a directory: the only module that knows `datasets`.

A directory holds one of these for each split:

* <split>.jsonl, .json (a list of objects, as Alpaca has), .parquet, .csv or .arrow, gzipped or not.
* One text file per column with one row per line, gzipped or not, named as in Multi30k (train.en, train.de) or as in WMT
  (src-train.txt, tgt-train.txt).
* A directory <split> as `save_to_disk` of `datasets` writes it.

A split may be a part of a split, as `datasets` writes it: "train[:90%]", "train[-100:]".

* Guarantee: nothing is written beside the data. Files of a directory are streamed and leave no copy; a part of a file
  makes a temporary copy. Data from the hub are cached by `datasets` in HF_HOME, and HF_DATASETS_OFFLINE and
  HF_HUB_OFFLINE are respected.
* Cost: 0.3 s for 7,473 rows of JSON. A hub that cannot be reached takes 23 s to fail, unless HF_HUB_OFFLINE=1 is set.

A column of a row is found by its name, or inside another column by a path with dots: `translation.de` of WMT,
`instances.0.output` of self-instruct. The error about a missing column lists the columns that exist.
"""

import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.runtime.errors import DataError
from pipeline.runtime.progress import bar
from pipeline.tasks.base import Message, Split


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row as `datasets` returns it, with checked access. Every method raises a DataError for a wrong column."""

    values: Mapping[str, Any]
    where: str  # data set, split and number of the row, for messages

    def text(self, column: str) -> str:
        """Return a text.

        Raises:
            DataError: When there is no such column, or it holds no text.
        """
        value = self._value(column)
        if not isinstance(value, str):
            raise self._wrong_type(column, "text", value)
        return value

    def texts(self, column: str) -> tuple[str, ...]:
        """Return a list of texts; a single text is a list of one.

        Raises:
            DataError: When there is no such column, or it holds neither.
        """
        value = self._value(column)
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise self._wrong_type(column, "text or a list of texts", value)
        return tuple(texts)

    def messages(self, column: str) -> list[Message]:
        """Return a conversation, with `role` and `content` of each message and nothing else.

        Raises:
            DataError: When there is no such column, or it holds no list of messages.
        """
        value = self._value(column)
        if not isinstance(value, list) or not all(map(_is_message, value)):
            raise self._wrong_type(column, "a list of messages with role and content", value)
        return [{"role": message["role"], "content": message["content"]} for message in value]

    def _value(self, column: str) -> Any:
        if column in self.values:
            return self.values[column]
        value: Any = self.values
        for key in column.split("."):
            if isinstance(value, list) and key.isdecimal() and int(key) < len(value):
                value = value[int(key)]
            elif isinstance(value, Mapping) and key in value:
                value = value[key]
            else:
                columns = ", ".join(value) if isinstance(value, Mapping) else f"{type(value).__name__}, no such part"
                expected, got = f"a column {column!r}", f"columns {columns}"
                raise DataError(self.where, expected=expected, got=got, remedy="fix task.settings")
        return value

    def _wrong_type(self, column: str, expected: str, value: Any) -> DataError:
        remedy = "fix the data or task.settings"
        return DataError(f"{self.where}.{column}", expected=expected, got=type(value).__name__, remedy=remedy)


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(value.get(key), str) for key in ("role", "content"))


_BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv", ".arrow": "arrow"}
_SAVED = "data-*-of-*.arrow"  # the files of `save_to_disk`; sorted names have the order of the rows
_LINE_FILE = re.compile(r"(?:(?P<first>\w+)-(?P<name>\w+)\.txt|(?P<split>\w+)\.(?P<column>\w+))(?:\.gz)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSettings:
    """The part of `task.settings` that all tasks with rows share; each task adds the names of its columns."""

    data: str
    """A name on the hub, such as openai/gsm8k, or a directory (pipeline/tasks/loading.py lists the files in it)."""
    config: str | None
    """Configuration on the hub (GSM8K: main); null for a directory, and where there is only one."""
    revision: str | None
    """Branch, tag or commit on the hub (refs/convert/parquet where the set is a script); null for a directory."""
    train_split: str
    """Name of the training split, or of the file without its ending. "train[:90%]" is a part of it."""
    heldout_split: str
    """The same for the held-out split. A case in both splits is held out."""


def iter_splits(settings: RowSettings, columns: Sequence[str]) -> Iterator[tuple[Split, Row]]:
    """Yield the rows of the held-out split, then those of the training split.

    Args:
        settings: The data set and its splits.
        columns: The columns to read, which name the files where each column is a file.

    Raises:
        DataError: When a split cannot be read or has no rows.
    """
    for row in iter_rows(settings, settings.heldout_split, columns):
        yield "heldout", row
    for row in iter_rows(settings, settings.train_split, columns):
        yield "train", row


def iter_rows(settings: RowSettings, split: str, columns: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of one split; arguments as in `iter_splits`.

    Raises:
        DataError: When the split cannot be read or has no rows.
    """
    where = f"{settings.data} ({split})"
    number = -1
    try:
        with bar(f"read {where}", None, unit="rows") as meter:
            for number, values in enumerate(_rows(settings, split, columns)):
                yield Row(values=values, where=f"{where} row {number}")
                meter.update()
    except DataError:
        raise
    except (OSError, ValueError, RuntimeError, EOFError, zlib.error) as error:  # no network, no such name, damage
        expected, got = "rows of a directory's file or of a data set on the hub", " ".join(str(error).split())
        remedy = "fix the file or task.settings; a name on the hub needs the network once, to fill its cache"
        raise DataError(where, expected=expected, got=got or type(error).__name__, remedy=remedy) from error
    if number < 0:
        raise DataError(where, expected="rows", got="none", remedy="name another split in task.settings")


def find_splits(data: str, config: str | None) -> dict[str, list[str]]:
    """Return the splits of a data set, each with its columns where every column is a file.

    The result is empty where the splits cannot be found out; reading the rows then raises the error.
    """
    directory = Path(data).expanduser()
    if not directory.is_dir():
        return {} if data[:1] in "./~" else _hub_splits(data, config)
    if saved := {file.parent.name for file in directory.glob(f"*/{_SAVED}")}:
        return {name: [] for name in sorted(saved)}
    names = sorted(path.name for path in directory.iterdir())
    tabular = [name for name in names if name.removesuffix(".gz").endswith(tuple(_BUILDERS))]
    tables: dict[str, list[str]] = {name.split(".")[0]: [] for name in tabular}
    lines: dict[str, list[str]] = {}
    for match in filter(None, map(_LINE_FILE.fullmatch, names)):
        lines.setdefault(match["name"] or match["split"], []).append(match["first"] or match["column"])
    return {name: columns for name, columns in lines.items() if len(columns) > 1 and name not in tables} | tables


def _hub_splits(data: str, config: str | None) -> dict[str, list[str]]:
    from datasets import get_dataset_split_names

    try:
        return {name: [] for name in get_dataset_split_names(data, config)}
    except Exception:  # no network, or no such name
        return {}


def _rows(settings: RowSettings, split: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    directory = Path(settings.data).expanduser()
    if directory.is_dir():
        yield from _local(directory, split, columns)
    elif settings.data[:1] in "./~" or directory.exists():  # no name on the hub looks like this
        raise DataError(settings.data, expected="a directory", got="none there", remedy="correct task.settings.data")
    else:
        from datasets import load_dataset  # the import takes half a second

        yield from load_dataset(settings.data, settings.config, split=split, revision=settings.revision)


def _local(directory: Path, split: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    name, bracket, numbers = split.partition("[")
    part = bracket + numbers
    if table := _first(directory, [f"{name}{suffix}" for suffix in _BUILDERS]):
        kind = Path(table.name.removesuffix(".gz")).suffix
        yield from _read(_BUILDERS[kind], [table], part)
    elif saved := sorted((directory / name).glob(_SAVED)):
        yield from _read("arrow", saved, part)
    else:
        yield from _line_files(directory, name, part, columns)


def _line_files(directory: Path, split: str, part: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield rows from one file of lines per column."""
    files = {column: _first(directory, [f"{split}.{column}", f"{column}-{split}.txt"]) for column in columns}
    if not all(files.values()):
        raise _no_file(directory, split, files)
    lines = [_read("text", [file], part) for file in files.values() if file]
    for number, texts in enumerate(zip_longest(*lines)):
        if None in texts:
            longer = ", ".join(file.name for file, text in zip(files.values(), texts, strict=True) if file and text)
            expected, got = f"files of equally many lines for {split}", f"{number:,} in one and more in {longer}"
            raise DataError(
                directory, expected=expected, got=got, remedy="fix the files; line n of each belongs together"
            )
        yield {column: text["text"] for column, text in zip(files, texts, strict=True)}


def _first(directory: Path, names: Sequence[str]) -> Path | None:
    """Return the first of these files that exists, gzipped or not."""
    paths = (directory / f"{name}{packed}" for name in names for packed in ("", ".gz"))
    return next((path for path in paths if path.is_file()), None)


def _read(builder: str, files: Sequence[Path], part: str) -> Iterator[dict[str, Any]]:
    from datasets import load_dataset

    # A stream of `datasets` over empty files ends with a StopIteration, which a generator must not raise.
    if not any(file.stat().st_size for file in files):
        return
    paths = [str(file) for file in files]
    if not part:
        yield from load_dataset(builder, data_files=paths, split="train", streaming=True)
        return
    with TemporaryDirectory() as cache:
        yield from load_dataset(builder, data_files=paths, split=f"train{part}", cache_dir=cache)


def _no_file(directory: Path, split: str, files: dict[str, Path | None]) -> DataError:
    tables = f"{split}{{{','.join(_BUILDERS)}}}"
    lines = " and ".join(f"{split}.{column}" for column, file in files.items() if file is None)
    names = ", ".join(sorted(path.name for path in directory.iterdir())) or "an empty directory"
    remedy = "correct the splits or columns in task.settings"
    return DataError(directory, expected=f"{tables} or {lines} (.gz or not)", got=names, remedy=remedy)
