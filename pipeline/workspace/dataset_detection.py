"""What a data set is for: its splits, its task and that task's columns, told by their names and a first row.

Guarantee: what the user names is taken; what is guessed is told, and one line says what is missing where nothing fits.
Not taken: reading the data's card on the hub, which most local data lack.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.runtime.errors import DataError
from pipeline.tasks import TASKS
from pipeline.tasks.loading import RowSettings, find_splits, iter_rows

TEXTS = {  # task, in the order in which they are tried: how a model is asked
    "instructions": "{request}",
    "summarisation": "Summarise in one or two sentences:\n\n{document}",
    "gsm8k": "{question}\n\nThink step by step, and end with the answer after ####.",
    "translation": "Translate:\n\n{source}",
}
_COLUMNS = {  # the usual names, by the field of task.settings
    "messages_column": ("messages", "conversation", "conversations"),
    "instruction_column": ("instruction", "prompt"),
    "input_column": ("input", "context"),
    "output_column": ("output", "completion", "response"),
    "document_column": ("document", "article", "dialogue", "text", "source"),
    "summary_column": ("summary", "highlights", "target"),
    "question_column": ("question", "problem"),
    "answer_column": ("answer", "solution"),
    "source_column": ("source", "src"),
    "target_column": ("target", "tgt"),
}
_LISTS = ("messages_column",)  # fields whose column holds lists
_TEXTS_OR_LISTS = ("document_column", "summary_column")
_NEEDED = {"instructions": ("instruction_column", "output_column")}
_HELDOUT = ("test", "validation", "valid", "val", "dev")
_CODE_LENGTH = 2  # of a language's name, such as en

Columns = dict[str, str | None]


def find_rows(data: str, config: str | None, train: str | None, heldout: str | None) -> dict[str, Any]:
    """`data`, `config`, `revision` and the splits of task.settings; a file stands for its directory."""
    path = Path(data).expanduser()
    splits = find_splits(str(path.parent) if path.is_file() else data, config)
    if path.is_file():
        data, splits = str(path.parent), {path.name.split(".")[0]: []}
    first, second = _splits(data, list(splits), train, heldout)
    return {"data": data, "config": config, "revision": None, "train_split": first, "heldout_split": second}


def _splits(data: str, names: list[str], train: str | None, heldout: str | None) -> tuple[str, str]:
    """Those that are named, the usual ones, or the last tenth of the only one."""
    train = train or next((one for one in ("train", *names[: len(names) == 1]) if one in names or not names), None)
    if train is None:
        remedy = "name them with --train-split and --heldout-split"
        raise DataError(data, expected="a split `train`", got=", ".join(names), remedy=remedy)
    heldout = heldout or next((one for one in _HELDOUT if one in names or not names), None)
    return (train, heldout) if heldout else (f"{train}[:90%]", f"{train}[90%:]")


def first_row(rows: Mapping[str, Any], named: Iterable[str]) -> dict[str, Any]:
    """The values of the first held-out row by column; those of a column within a column as `translation.de`."""
    split = str(rows["heldout_split"])
    columns = list(named) or find_splits(rows["data"], rows["config"]).get(split.partition("[")[0]) or ["column"]
    every = list(iter_rows(RowSettings(**rows), split, columns))  # a stream left open kept the process from ending
    found = every[0].values
    inner = {
        f"{name}.{key}": one for name, value in found.items() if isinstance(value, dict) for key, one in value.items()
    }
    return {name: value for name, value in found.items() if not isinstance(value, dict)} | inner


def choose(data: str, task: str | None, named: Mapping[str, str], row: Mapping[str, Any]) -> tuple[str, Columns]:
    """The task and its columns: those that were named, or else the usual ones."""
    if task not in (None, *TEXTS):
        known = ", ".join(TEXTS)
        raise DataError("--task", expected=f"one of: {known}", got=repr(task), remedy="mend it or leave it out")
    names = [task] if task else list(TEXTS)
    for name in names:
        found: Columns = {field: named.get(field) or _usual(field, row) for field in _fields(name)}
        if found.get("messages_column"):
            return name, {field: one if field == "messages_column" else None for field, one in found.items()}
        if name == "translation" and not all(found.values()):
            found |= dict(zip(found, _languages(row), strict=False))
        if all(found[field] for field in _NEEDED.get(name, _fields(name))):
            return name, found
    wanted = "; ".join(f"{name}: {', '.join(_NEEDED.get(name, _fields(name)))}" for name in names)
    remedy = "name them, such as --column answer_column=solution"
    raise DataError(data, expected=f"columns for {wanted}", got=", ".join(row), remedy=remedy)


def question(task: str, columns: Columns) -> str:
    """How a model is asked: with the languages of a translation, where the columns tell them."""
    codes = [str(one).rpartition(".")[2] for one in columns.values()]
    if task == "translation" and all(len(one) == _CODE_LENGTH for one in codes):
        return f"Translate from {codes[0]} to {codes[1]}:\n\n{{source}}"
    return TEXTS[task]


def _fields(task: str) -> tuple[str, ...]:
    return tuple(one for one in TASKS[task].settings.__dataclass_fields__ if one.endswith("_column"))


def _usual(field: str, row: Mapping[str, Any]) -> str | None:
    return next((one for one in _COLUMNS[field] if one in row and _holds(field, one, row[one])), None)


def _holds(field: str, column: str, value: object) -> bool:
    """SciTLDR's source is a list of sentences to be summarised, where a text would be one to be translated."""
    if field == "document_column" and column == "source":
        return isinstance(value, list)
    return isinstance(value, list) if field in _LISTS else isinstance(value, str) or field in _TEXTS_OR_LISTS


def _languages(row: Mapping[str, Any]) -> list[str]:
    """Two columns that are called after languages: English first, where it is one of them."""
    found = [one for one in row if len(one.rpartition(".")[2]) == _CODE_LENGTH and isinstance(row[one], str)]
    return sorted(found, key=lambda one: (one.rpartition(".")[2] != "en", one)) if len(found) == 2 else []
