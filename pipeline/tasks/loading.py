"""The rows of one split of a data set, from the hub or from a directory: the only module that knows `datasets`.

A directory holds <split>.jsonl, .json (a list of objects, as Alpaca has), .parquet, .csv or .arrow, gzipped or not, or
one text file a column, a line a row, as Multi30k (train.en.gz, train.de.gz) and WMT (src-train.txt, tgt-train.txt)
have, or a directory <split> as `save_to_disk` of `datasets` leaves it. A split may be a part of one, as `datasets`
writes it: "train[:90%]", "train[-100:]".

Guarantee: nothing is written beside the data. Files of a directory are streamed, so that they leave no copy (a part of
one makes a temporary copy); what comes from the hub lands in the cache of `datasets` (HF_HOME), and
HF_DATASETS_OFFLINE and HF_HUB_OFFLINE are heeded. Cost: 7,473 rows of JSON in 0.3 s; a hub that cannot be reached
takes 23 s to say so unless HF_HUB_OFFLINE=1 is set. Not taken: pyarrow's readers for the directory, a second set of
rules for quoting, types and missing values.
"""

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.runtime.errors import DataError
from pipeline.runtime.progress import bar
from pipeline.tasks.base import Split
from pipeline.tasks.rows import Row

_BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv", ".arrow": "arrow"}
_SUFFIXES = tuple(f"{suffix}{packed}" for suffix in _BUILDERS for packed in ("", ".gz"))
_TABLES = tuple(f"{{split}}{suffix}" for suffix in _SUFFIXES)  # the first is taken
_LINES = tuple(f"{name}{packed}" for name in ("{split}.{column}", "{column}-{split}.txt") for packed in ("", ".gz"))
_SAVED = "data-*-of-*.arrow"  # by `save_to_disk`, in the order of their rows
_PART = re.compile(r"(.+?)(\[.*\])?")
_LINE_FILE = re.compile(r"(?:(?P<first>\w+)-(?P<name>\w+)\.txt|(?P<split>\w+)\.(?P<column>\w+))(?:\.gz)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSettings:
    """What every task that reads rows has in its `task.settings`, beside the names of its columns."""

    data: str
    """A name on the hub, such as openai/gsm8k, or a directory (see pipeline/tasks/rows.py for the files in it)."""
    config: str | None
    """The configuration on the hub (GSM8K: main); null for a directory, and where there is only one."""
    revision: str | None
    """Branch, tag or commit on the hub (refs/convert/parquet where the set is a script); null for a directory."""
    train_split: str
    """Name of the split, or of the file without its ending; a part as in "train[:90%]"."""
    heldout_split: str
    """The same for the held-out split; what is in both is held out."""


def iter_splits(settings: RowSettings, columns: Sequence[str]) -> Iterator[tuple[Split, Row]]:
    """The rows of the held-out split, then those of the training split. `columns` are those of line files."""
    for row in iter_rows(settings, settings.heldout_split, columns):
        yield "heldout", row
    for row in iter_rows(settings, settings.train_split, columns):
        yield "train", row


def iter_rows(settings: RowSettings, split: str, columns: Sequence[str]) -> Iterator[Row]:
    """A DataError says what is wrong with the place, the split or the file."""
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
        raise DataError(
            where,
            expected="rows of a directory's file or of a data set on the hub",
            got=" ".join(str(error).split()) or type(error).__name__,
            remedy="mend the file or task.settings; a name on the hub needs the network once, to fill its cache",
        ) from error
    if number < 0:
        raise DataError(where, expected="rows", got="none", remedy="name another split in task.settings")


def find_splits(data: str, config: str | None) -> dict[str, list[str]]:
    """The splits of a data set, each with its columns where these are files of lines; none where nobody tells."""
    directory = Path(data).expanduser()
    if not directory.is_dir():
        if data[:1] in "./~":
            return {}
        from datasets import get_dataset_split_names

        try:
            return {name: [] for name in get_dataset_split_names(data, config)}
        except Exception:  # no network, no such name: reading tells it
            return {}
    if saved := {file.parent.name for file in directory.glob(f"*/{_SAVED}")}:
        return {name: [] for name in sorted(saved)}
    names = sorted(path.name for path in directory.iterdir())
    tables: dict[str, list[str]] = {name.split(".")[0]: [] for name in names if name.endswith(_SUFFIXES)}
    lines: dict[str, list[str]] = {}
    for found in filter(None, map(_LINE_FILE.fullmatch, names)):
        lines.setdefault(found["name"] or found["split"], []).append(found["first"] or found["column"])
    return {name: columns for name, columns in lines.items() if len(columns) > 1 and name not in tables} | tables


def _rows(settings: RowSettings, split: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    directory = Path(settings.data).expanduser()
    if directory.is_dir():
        yield from _local(directory, split, columns)
    elif settings.data[:1] in "./~" or directory.exists():  # no name on the hub looks like this
        raise DataError(settings.data, expected="a directory", got="none there", remedy="correct task.settings.data")
    else:
        from datasets import load_dataset  # half a second that only data from outside needs

        yield from load_dataset(settings.data, settings.config, split=split, revision=settings.revision)


def _local(directory: Path, split: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    matched = _PART.fullmatch(split)
    name, part = matched.groups() if matched else (split, None)
    if table := _first(directory, _TABLES, split=name):
        kind = Path(table.name.removesuffix(".gz")).suffix
        yield from _read(_BUILDERS[kind], [table], part)
        return
    if saved := sorted((directory / name).glob(_SAVED)):
        yield from _read("arrow", saved, part)
        return
    files = {column: _first(directory, _LINES, split=name, column=column) for column in columns}
    if not all(files.values()):
        raise _no_file(directory, name, files)
    lines = [_read("text", [file], part) for file in files.values() if file]
    for number, texts in enumerate(zip_longest(*lines)):
        if None in texts:
            longer = ", ".join(file.name for file, text in zip(files.values(), texts, strict=True) if file and text)
            raise DataError(
                directory,
                expected=f"files of equally many lines for {name}",
                got=f"{number:,} in one and more in {longer}",
                remedy="mend the files; line n of each belongs together",
            )
        yield {column: text["text"] for column, text in zip(files, texts, strict=True)}


def _first(directory: Path, patterns: Sequence[str], **names: str) -> Path | None:
    paths = (directory / pattern.format(**names) for pattern in patterns)
    return next((path for path in paths if path.is_file()), None)


def _read(builder: str, files: Sequence[Path], part: str | None) -> Iterator[dict[str, Any]]:
    from datasets import load_dataset

    if not any(one.stat().st_size for one in files):  # at which its streams end in a StopIteration of their own
        return
    paths = [str(one) for one in files]
    if part is None:
        yield from load_dataset(builder, data_files=paths, split="train", streaming=True)
        return
    with TemporaryDirectory() as cache:
        yield from load_dataset(builder, data_files=paths, split=f"train{part}", cache_dir=cache)


def _no_file(directory: Path, split: str, files: dict[str, Path | None]) -> DataError:
    tables = f"{split}{{{','.join(_BUILDERS)}}}"
    lines = " and ".join(f"{split}.{column}" for column, file in files.items() if file is None)
    found = ", ".join(sorted(path.name for path in directory.iterdir())) or "an empty directory"
    remedy = "correct the splits or columns in task.settings"
    return DataError(directory, expected=f"{tables} or {lines} (.gz or not)", got=found, remedy=remedy)
