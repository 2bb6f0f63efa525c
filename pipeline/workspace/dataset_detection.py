"""Infer what a data set is for: its splits, its task, and the columns of that task.

* What the user names is used; the rest is inferred from the usual names and from the first rows.
* What is inferred is reported by `stillroom init`. A DataError says what is missing if nothing fits.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.metrics.exact_match import final_number
from pipeline.runtime.errors import DataError
from pipeline.tasks import TASKS
from pipeline.tasks.conversations import holds_messages, holds_question
from pipeline.tasks.loading import RowSettings, divide_split, find_splits, iter_rows, split_of
from pipeline.tasks.rows import Row, cell_text
from pipeline.tasks.table_files import READERS

# The prompt of each task, in the order in which the tasks are tried.
TEXTS = {
    "instructions": "{request}",
    "summarisation": "Summarise in one or two sentences:\n\n{document}",
    "gsm8k": "{question}\n\nThink step by step, and end with the answer after ####.",
    "translation": "Translate:\n\n{source}",
}
# The usual names of a column, by the field of `task.settings`.
_COLUMNS = {
    "messages_column": ("messages", "conversation", "conversations", "chosen"),
    "instruction_column": ("instruction", "prompt"),
    "input_column": ("input", "context"),
    "output_column": ("output", "completion", "response", "chosen"),
    "document_column": ("document", "article", "dialogue", "text", "source"),
    "summary_column": ("summary", "highlights", "target"),
    "question_column": ("question", "problem"),
    "answer_column": ("answer", "solution"),
    "source_column": ("source", "src"),
    "target_column": ("target", "tgt"),
}
# The fields that a task cannot do without, where these are not all of its fields.
_REQUIRED = {"instructions": ("instruction_column", "output_column")}
# Names that are instructions and answers where no other task fits.
_FREE_ANSWERS = {"instruction_column": ("question", "problem", "query"), "output_column": ("answer", "solution")}
_FREE_COLUMNS = {field: names + _FREE_ANSWERS.get(field, ()) for field, names in _COLUMNS.items()}
_FIRST_ROWS = 100
_HELDOUT = ("test", "validation", "valid", "val", "dev")
_CODE_LENGTH = 2  # The length of a language's code, such as en

Columns = dict[str, str | None]


def find_rows(data: str, config: str | None, train: str | None, heldout: str | None) -> dict[str, Any]:
    """Return `data`, `config`, `revision` and the splits of `task.settings`.

    Args:
        data: A name on the hub, a directory, or a file, which stands for its directory.
        config: The configuration on the hub.
        train: The training split, if the user names it.
        heldout: The held-out split, if the user names it.

    Raises:
        DataError: There is no such data, or its training split cannot be inferred.
    """
    path = Path(data).expanduser()
    splits = find_splits(str(path.parent) if path.is_file() else data, config)
    if path.is_file():
        data, splits = str(path.parent), {_split_of_file(path, splits): []}
    train, heldout = _splits(data, list(splits), train, heldout)
    return {"data": data, "config": config, "revision": None, "train_split": train, "heldout_split": heldout}


def _split_of_file(path: Path, splits: Iterable[str]) -> str:
    """Return the split that is this file alone, or that it is a column of."""
    if split_of(path.name) is not None:
        return Path(path.name.removesuffix(".gz")).stem
    if (first := path.name.split(".")[0]) in splits:
        return first
    expected, remedy = f"a file that ends in {', '.join(READERS)}", "save it in one of these forms, in small letters"
    raise DataError(path, expected=expected, got=path.suffix or "no ending", remedy=remedy)


def _splits(data: str, names: list[str], train: str | None, heldout: str | None) -> tuple[str, str]:
    """Return the named splits, the usual ones, or the first nine tenths and the last tenth of the only one."""
    candidates = ["train", *names] if len(names) == 1 else ["train"]
    train = train or next((name for name in candidates if name in names or not names), None)
    if train is None:
        remedy = "name them with --train-split and --heldout-split"
        raise DataError(data, expected="a split `train`", got=", ".join(names), remedy=remedy)
    heldout = heldout or next((name for name in _HELDOUT if name in names or not names), None)
    return (train, heldout) if heldout else (f"{train}[:90%]", f"{train}[90%:]")


def first_rows(rows: Mapping[str, Any], named: Iterable[str]) -> list[dict[str, Any]]:
    """Return the first rows of the held-out file; a column within a column has a dotted name, as `translation.de`.

    Args:
        rows: The result of `find_rows`.
        named: The columns that the user names.

    Raises:
        DataError: The data cannot be read.
    """
    split, _ = divide_split(str(rows["heldout_split"]))  # a part would be counted first
    columns = file_columns(rows, split, named)
    with closing(iter_rows(RowSettings(**rows), split, columns, streaming=True)) as stream:
        return [_flat(row.values) for row in islice(stream, _FIRST_ROWS)]


def file_columns(rows: Mapping[str, Any], split: str, named: Iterable[str]) -> list[str]:
    """Return the columns of a split where each is a file, or else the named ones, or a name that stands for any."""
    return find_splits(rows["data"], rows["config"]).get(split) or [*named] or ["column"]


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    nested = {name: value for name, value in values.items() if isinstance(value, dict)}
    inner = {f"{name}.{key}": part for name, parts in nested.items() for key, part in parts.items()}
    return {name: value for name, value in values.items() if name not in nested} | inner


def choose(
    data: str, task: str | None, named: Mapping[str, str], rows: Sequence[Mapping[str, Any]]
) -> tuple[str, Columns]:
    """Return the task and the column of each of its fields: the named ones, or else the usual ones.

    Args:
        data: The name of the data, for messages.
        task: The task, if the user names it.
        named: The columns that the user names, by field.
        rows: The result of `first_rows`.

    Raises:
        DataError: There is no such task, or the columns fit none, or a named column is missing or of the wrong type.
    """
    if task not in (None, *TEXTS):
        expected = f"one of: {', '.join(TEXTS)}"
        raise DataError("--task", expected=expected, got=repr(task), remedy="fix it or leave it out")
    names = [task] if task else list(TEXTS)
    # Each column with its first value that is not empty.
    row: dict[str, Any] = {name: None for values in rows for name in values}
    row |= {name: value for values in reversed(rows) for name, value in values.items() if value not in (None, "", [])}
    _check_named(data, names, named, row)
    for name in names:
        columns = _columns(name, named, row, _COLUMNS)
        if columns.get("messages_column"):
            others: Columns = {field: named.get(field) for field in columns}
            return name, others | {"messages_column": columns["messages_column"]}
        if name == "translation" and not all(columns.values()):
            columns |= dict(zip(columns, _languages(row), strict=False))
        if _is_complete(name, columns) and (task or _suits(name, columns, rows)):
            return name, columns
    if "instructions" in names:
        columns = _columns("instructions", named, row, _FREE_COLUMNS)
        if _is_complete("instructions", columns):
            return "instructions", columns
    raise _no_task(data, names, row)


def _columns(
    task: str, named: Mapping[str, str], row: Mapping[str, Any], usual: Mapping[str, tuple[str, ...]]
) -> Columns:
    """Return the column of each field of a task: the named one, or a usual one that no other field has.

    Messages are not looked for where the user names the columns of a table.
    """
    fields = _fields(task)
    free = {name: value for name, value in row.items() if name not in named.values()}
    if any(field in named for field in fields):
        fields = tuple(field for field in fields if field != "messages_column" or field in named)
    columns: Columns = dict.fromkeys(_fields(task))
    for field in fields:
        columns[field] = named.get(field) or _usual(usual[field], field, free)
        free.pop(columns[field] or "", None)
    return columns


def _is_complete(name: str, columns: Columns) -> bool:
    return all(columns[field] for field in _REQUIRED.get(name, _fields(name)))


def _suits(name: str, columns: Columns, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether all answers have a number, where the task needs one."""
    answers = [cell_text(row.get(str(columns["answer_column"]))) for row in rows] if name == "gsm8k" else []
    return all(final_number(answer) is not None for answer in answers if answer)


def _check_named(data: str, tasks: Sequence[str], named: Mapping[str, str], row: Mapping[str, Any]) -> None:
    fields = [field for task in tasks for field in _fields(task)]
    for field, column in named.items():
        if field not in fields:
            raise DataError(
                "--column", expected=f"one of: {', '.join(fields)}", got=repr(field), remedy="rename the field"
            )
        record = Row(values=row, where=data)
        if not record.has(column):
            expected, got = f"a column {column!r}", f"columns {', '.join(row)}"
            raise DataError(data, expected=expected, got=got, remedy=f"fix --column {field}={column}")
        value = record.value(column)
        if value is not None and not fits(field, "", value):
            kind = "a conversation" if field == "messages_column" else "text"
            got, remedy = type(value).__name__, f"fix --column {field}={column}"
            raise DataError(f"{data}.{column}", expected=f"{kind} for {field}", got=got, remedy=remedy)


def _no_task(data: str, names: Sequence[str], row: Mapping[str, Any]) -> DataError:
    fields = "; ".join(f"{name}: {', '.join(_REQUIRED.get(name, _fields(name)))}" for name in names)
    remedy = "name them, such as --column answer_column=solution"
    if sum(isinstance(value, str) for value in row.values()) == 1:
        remedy = "divide the texts into two columns, prompt and completion"
    if talks := [name for name, value in row.items() if holds_messages(value)]:
        remedy = f"add --column messages_column={talks[0]}"
    elif lists := [name for name, value in row.items() if _is_table(value)]:
        keys = ", ".join(dict.fromkeys(key for item in row[lists[0]] for key in item))
        remedy = f"write each element of {lists[0]!r} ({keys}) as a row, or as a message with role and content"
    elif {"role", "content"} <= row.keys():
        remedy = 'write each conversation as one row, {"messages": [...]}'
    return DataError(data, expected=f"columns for {fields}", got=", ".join(row), remedy=remedy)


def _is_table(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)


def question(task: str, columns: Columns) -> str:
    """Return the prompt of a task; that of a translation names the languages if the columns do."""
    codes = [str(column).rpartition(".")[2] for column in columns.values()]
    if task == "translation" and all(len(code) == _CODE_LENGTH for code in codes):
        return f"Translate from {codes[0]} to {codes[1]}:\n\n{{source}}"
    return TEXTS[task]


def _fields(task: str) -> tuple[str, ...]:
    return tuple(name for name in TASKS[task].settings.__dataclass_fields__ if name.endswith("_column"))


def _usual(names: Iterable[str], field: str, row: Mapping[str, Any]) -> str | None:
    fitting = (name for name in names if name in row and fits(field, name, row[name]))
    return next((name for name in fitting if field != "messages_column" or holds_question(row[name])), None)


def fits(field: str, column: str, value: object) -> bool:
    """Return whether a value has the type of a field.

    A column `source` is a document only if it holds lists, as in SciTLDR; a text would be the source of a translation.
    """
    if field == "messages_column":
        return holds_messages(value)
    if (field, column) == ("document_column", "source"):
        return isinstance(value, list)
    if field in ("document_column", "summary_column") and isinstance(value, list):
        return all(cell_text(item) is not None for item in value)
    is_talk = field in ("instruction_column", "output_column") and isinstance(value, list) and holds_messages(value)
    return is_talk or cell_text(value) is not None


def _languages(row: Mapping[str, Any]) -> list[str]:
    """Return two columns that are named after languages, English first; nothing if there are not exactly two."""
    codes = {name: name.rpartition(".")[2] for name, value in row.items() if isinstance(value, str)}
    columns = [name for name, code in codes.items() if len(code) == _CODE_LENGTH]
    return sorted(columns, key=lambda name: (codes[name] != "en", name)) if len(columns) == 2 else []
