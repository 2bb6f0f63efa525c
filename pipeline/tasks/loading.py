"""Read the rows of one split of a data set, from the hub or from a directory: the only module that knows `datasets`.

A directory holds one of these for each split:

* <split>.jsonl, .ndjson, .json, .parquet, .csv, .tsv or .arrow, gzipped or not; `table_files` says how each is read.
  Several files as the hub names them, <split>-00000-of-00002.parquet and so on, are one split.
* One text file per column with one row per line, gzipped or not, named as in Multi30k (train.en, train.de) or as in WMT
  (src-train.txt, tgt-train.txt).
* A directory <split> as `save_to_disk` of `datasets` writes it.

A split may be a part of a split, as `datasets` writes it: "train[:90%]", "train[-100:]".

* Guarantee: nothing is written beside the data, and files are streamed. A directory may have any name. Data from the
  hub are cached by `datasets` in HF_HOME, and HF_DATASETS_OFFLINE and HF_HUB_OFFLINE are respected.
* Cost: 0.1 s for 7,473 rows of JSON. A part of a file is read twice. A hub that cannot be reached takes 23 s to fail,
  unless HF_HUB_OFFLINE=1 is set.
"""

import re
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from pathlib import Path

from pipeline.runtime.errors import DataError
from pipeline.runtime.progress import bar
from pipeline.tasks.base import Split
from pipeline.tasks.rows import Row
from pipeline.tasks.table_files import READERS, Values, plain, read_lines, read_table

_SPREADSHEETS = (".xlsx", ".xls", ".ods")
_SAVED = "data-*-of-*.arrow"  # the files of `save_to_disk`; sorted names have the order of the rows
_SHARD = re.compile(r"(?P<split>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})")
_PART = re.compile(r"(?P<name>.*?)(?P<part>\[[^\[\]]*:[^\[\]]*\].*)?")
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
        DataError: When a split cannot be read or has no rows, or no row of both has one of the columns.
    """
    missing, names = set(columns), dict[str, None]()
    splits: tuple[tuple[Split, str], ...] = (("heldout", settings.heldout_split), ("train", settings.train_split))
    for split, name in splits:
        for row in iter_rows(settings, name, columns):
            if missing:  # a column may appear in a later row
                missing = {column for column in missing if not row.has(column)}
                names |= dict.fromkeys(row.values)
            yield split, row
    if missing:
        expected, got = f"a column {min(missing)!r}", f"columns {', '.join(names)}"
        raise DataError(settings.data, expected=expected, got=got, remedy="fix task.settings")


def iter_rows(
    settings: RowSettings, split: str, columns: Sequence[str], *, streaming: bool = False
) -> Generator[Row, None, None]:
    """Yield the rows of one split.

    Args:
        settings: The data set and its splits.
        split: The split. A part of a split on the hub is the whole split where it is streamed.
        columns: As in `iter_splits`.
        streaming: Fetch rows from the hub as they are read, for a look at the first of them.

    Raises:
        DataError: When the split cannot be read or has no rows.
    """
    where = f"{settings.data} ({split})"
    number = -1
    try:
        with bar(f"read {where}", None, unit="rows") as meter:
            for number, values in enumerate(_rows(settings, split, columns, streaming)):
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
        return {} if is_path(data) else _hub_splits(data, config)
    if saved := {file.parent.name for file in directory.glob(f"*/{_SAVED}")}:
        return {name: [] for name in sorted(saved)}
    names = sorted(path.name for path in directory.iterdir() if not path.name.startswith("."))
    tables: dict[str, list[str]] = {split: [] for split in map(split_of, names) if split}
    lines: dict[str, list[str]] = {}
    for match in filter(None, map(_LINE_FILE.fullmatch, names)):
        lines.setdefault(match["name"] or match["split"], []).append(match["first"] or match["column"])
    return {name: columns for name, columns in lines.items() if len(columns) > 1 and name not in tables} | tables


def split_of(name: str) -> str | None:
    """Return the split that a file of a table holds, which is its name without the ending; None for other files."""
    path = Path(name.removesuffix(".gz"))
    if path.suffix not in (*READERS, *_SPREADSHEETS):
        return None
    shard = _SHARD.fullmatch(path.stem)
    return shard["split"] if shard else path.stem


def divide_split(split: str) -> tuple[str, str]:
    """Return the name of a split, which may have brackets, and the part, such as "[:90%]", or an empty text."""
    match = _PART.fullmatch(split)
    return (match["name"], match["part"] or "") if match else (split, "")


def is_path(data: str) -> bool:
    """Return whether a text is the path of a file or directory, and no name on the hub."""
    return data[:1] in "./~" or data.count("/") > 1 or split_of(data) is not None or Path(data).expanduser().exists()


def _hub_splits(data: str, config: str | None) -> dict[str, list[str]]:
    from datasets import get_dataset_split_names

    try:
        return {name: [] for name in get_dataset_split_names(data, config)}
    except Exception:  # no network, or no such name
        return {}


def _rows(settings: RowSettings, split: str, columns: Sequence[str], streaming: bool) -> Iterator[Values]:
    directory = Path(settings.data).expanduser()
    if directory.is_dir():
        name, part = divide_split(split)
        yield from _part(lambda: _local(directory, name, columns), part)
    elif directory.exists():
        remedy = "name its directory in task.settings.data, and the file without its ending as a split"
        raise DataError(settings.data, expected="a directory", got="a file", remedy=remedy)
    elif is_path(settings.data):
        expected, remedy = "a file or directory", "correct the path in task.settings.data or --data"
        raise DataError(settings.data, expected=expected, got="no such path", remedy=remedy)
    else:
        from datasets import load_dataset  # the import takes half a second

        name = divide_split(split)[0] if streaming else split
        options = {"split": name, "revision": settings.revision, "streaming": streaming}
        rows = load_dataset(settings.data, settings.config, **options)
        yield from ({name: plain(value) for name, value in row.items()} for row in rows)


def _part(rows: Callable[[], Iterator[Values]], part: str) -> Iterator[Values]:
    """Yield all rows, or those of a part such as "[:90%]", for which the rows are counted first."""
    if not part:
        yield from rows()
        return
    from datasets import ReadInstruction

    total = sum(1 for _ in rows())
    for piece in ReadInstruction.from_spec(f"all{part}").to_absolute({"all": total}):
        yield from islice(rows(), piece.from_, piece.to)


def _local(directory: Path, split: str, columns: Sequence[str]) -> Iterator[Values]:
    if table := _first(directory, [f"{split}{suffix}" for suffix in READERS]):
        return read_table(table)
    if saved := sorted((directory / split).glob(_SAVED)):
        return chain.from_iterable(map(read_table, saved))
    if shards := _shards(directory, split):
        return chain.from_iterable(map(read_table, shards))
    return _line_files(directory, split, columns)


def _shards(directory: Path, split: str) -> list[Path]:
    """Return the files of a split that the hub has divided, in the order of their numbers."""
    names = {path: _SHARD.fullmatch(Path(path.name.removesuffix(".gz")).stem) for path in sorted(directory.iterdir())}
    shards = {path: int(shard["count"]) for path, shard in names.items() if shard and split_of(path.name) == split}
    if shards and any(count != len(shards) for count in shards.values()):
        expected, got = f"all of {max(shards.values()):,} files of {split}", f"{len(shards):,}"
        remedy = "fetch the others, or delete those of another set"
        raise DataError(directory, expected=expected, got=got, remedy=remedy)
    return list(shards)


def _line_files(directory: Path, split: str, columns: Sequence[str]) -> Iterator[Values]:
    """Yield rows from one file of lines per column."""
    files = {column: _first(directory, [f"{split}.{column}", f"{column}-{split}.txt"]) for column in columns}
    if not files or not all(files.values()):
        raise _no_file(directory, split, files)
    lines = [read_lines(file) for file in files.values() if file]
    for number, texts in enumerate(zip_longest(*lines)):
        if None in texts:
            longer = ", ".join(file.name for file, text in zip(files.values(), texts, strict=True) if file and text)
            expected, got = f"files of equally many lines for {split}", f"{number:,} in one and more in {longer}"
            raise DataError(
                directory, expected=expected, got=got, remedy="fix the files; line n of each belongs together"
            )
        yield dict(zip(files, texts, strict=True))


def _first(directory: Path, names: Sequence[str]) -> Path | None:
    """Return the first of these files that exists, gzipped or not."""
    paths = (directory / f"{name}{packed}" for name in names for packed in ("", ".gz"))
    return next((path for path in paths if path.is_file()), None)


def _no_file(directory: Path, split: str, files: dict[str, Path | None]) -> DataError:
    if sheets := [name for suffix in _SPREADSHEETS if (directory / (name := f"{split}{suffix}")).is_file()]:
        got, remedy = f"{sheets[0]}, a spreadsheet", f"save it as {split}.csv (CSV UTF-8) in the same directory"
        raise DataError(directory, expected="a file of text", got=got, remedy=remedy)
    tables = f"{split}{{{','.join(READERS)}}}"
    lines = " and ".join(f"{split}.{column}" for column, file in files.items() if file is None)
    names = ", ".join(sorted(path.name for path in directory.iterdir())) or "an empty directory"
    remedy = "correct the splits or columns in task.settings"
    return DataError(directory, expected=f"{tables} or {lines} (.gz or not)", got=names, remedy=remedy)
