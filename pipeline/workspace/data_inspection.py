"""Look at the data that `stillroom init` is given: task, splits, columns and cases, before any model is read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.runtime.config import parse
from pipeline.runtime.errors import DataError
from pipeline.runtime.yaml_files import overlay_yaml, parse_yaml
from pipeline.tasks import TASKS, Case, Cases, find_task
from pipeline.tasks.conversations import EXTRA_COLUMNS
from pipeline.tasks.loading import RowSettings, divide_split, iter_rows
from pipeline.tasks.table import count_lines
from pipeline.workspace.dataset_detection import choose, file_columns, find_rows, first_rows, question
from pipeline.workspace.input_check import check_rows
from pipeline.workspace.presets import DEFAULT, PRESETS

_OWN_DATA = ("docstrings", "arithmetic-tiny")  # Presets whose task needs no data of the user
_FEW = 20  # rows; with fewer a fifth is held out instead of a tenth


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRequest:
    """The options of the command line about the data."""

    data: str | None
    task: str | None
    config: str | None
    train_split: str | None
    heldout_split: str | None
    columns: Mapping[str, str]  # The column of each field of `task.settings` that the user names


@dataclass(frozen=True, slots=True, kw_only=True)
class DataInspection:
    """What the data are."""

    task: dict[str, Any]  # The section `task` of params.yaml but for the lengths
    messages: bool  # Whether the data are conversations
    train: list[Case]
    heldout: list[Case]
    findings: list[str]


def inspect_data(request: DataRequest) -> DataInspection:
    """Read all rows, and infer what the user does not name.

    Raises:
        UserError: The data are missing or cannot be read, or do not fit a task.
    """
    task, findings = _row_task(request, request.data) if request.data is not None else _preset_task(request.task)
    kind = find_task(task["name"])
    cases = kind.cases(parse(kind.settings, task["settings"], where="task.settings"))
    listed = list(cases)
    train, heldout = ([case for case in listed if case.split == split] for split in ("train", "heldout"))
    for split, part in (("training", train), ("held-out", heldout)):
        if not part:
            remedy = "name splits with --train-split and --heldout-split"
            got = "none, or none that is not in the other split"
            raise DataError(request.data or "--task", expected=f"a {split} case", got=got, remedy=remedy)
    counts = f"cases: {len(train):,} for training, {len(heldout):,} held out"
    return DataInspection(
        task=task,
        messages=any(len(case.messages) > 1 for case in listed) or bool(task["settings"].get("messages_column")),
        train=train,
        heldout=heldout,
        findings=[f"task {task['name']}", *findings, counts, *(count_lines(cases) if isinstance(cases, Cases) else [])],
    )


def _preset_task(name: str | None) -> tuple[dict[str, Any], list[str]]:
    """Return the section `task` of the preset of a task that needs no data of the user, and nothing inferred."""
    presets = [path for preset in _OWN_DATA if (path := PRESETS / f"{preset}.yaml").exists()]
    sections = [parse_yaml(path, overlay_yaml(DEFAULT, path).encode())["task"] for path in presets]
    tasks = {section["name"]: section for section in sections}
    if name is None or name not in tasks:
        remedy = f"add --data, or --task with one of: {', '.join(tasks) or 'none, in this directory'}"
        raise DataError("--data", expected="a data set", got="none", remedy=remedy)
    return dict(tasks[name]), []


def _row_task(request: DataRequest, data: str) -> tuple[dict[str, Any], list[str]]:
    """Return the section `task` for data in rows, and what was inferred, line by line."""
    if not data.strip():
        raise DataError("--data", expected="a data set", got="an empty name", remedy="name a file or a directory")
    rows = find_rows(data, request.config, request.train_split, request.heldout_split)
    rows |= _few_rows(rows, [*request.columns.values()])
    first = first_rows(rows, request.columns.values())
    name, columns = choose(data, request.task, request.columns, first)
    settings = rows | columns
    check_rows(parse(TASKS[name].settings, settings, where="task.settings"))
    columns_line = f"columns: {', '.join(f'{field}={column}' for field, column in columns.items() if column)}"
    splits_line = f"splits: {rows['train_split']}, held out {rows['heldout_split']}"
    task = {"name": name, "template": {"text": question(name, columns)}, "settings": settings}
    # `instructions` reads further columns by their usual names.
    used = {*columns.values(), *(EXTRA_COLUMNS if name == "instructions" else ())}
    unused = [column for column in dict.fromkeys(column for row in first for column in row) if column not in used]
    return task, [columns_line, *([f"not used: {', '.join(unused)}"] if unused else []), splits_line]


def _few_rows(rows: Mapping[str, Any], columns: list[str]) -> dict[str, str]:
    """Return splits of the only split where it has so few rows that a tenth of them may be none."""
    split = str(rows["heldout_split"])
    if not split.endswith("[90%:]"):
        return {}
    split, _ = divide_split(split)
    columns = file_columns(rows, split, columns)
    total = sum(1 for _ in iter_rows(RowSettings(**{**rows, "heldout_split": split}), split, columns))
    if total < 2:
        remedy = "add rows, or name another split with --heldout-split"
        raise DataError(rows["data"], expected="at least 2 rows, one of them to hold out", got=total, remedy=remedy)
    held = max(1, total // 5)
    return {"train_split": f"{split}[:-{held}]", "heldout_split": f"{split}[-{held}:]"} if total < _FEW else {}
