"""Look at what params.yaml names before any model is read: the data's first rows, and the models' directories.

* `stillroom init`, the stage `plan` and `stillroom doctor` make the same checks.
* What is on the hub is not fetched. A hub name that is in no cache is refused only while the hub may not be asked.
* Cost: the first row of each split and small files, so less than a second.
"""

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from transformers import AutoConfig

from pipeline.checkpoints.onnx_t5 import is_export
from pipeline.checkpoints.pretrained import locate
from pipeline.models.context import Context, context
from pipeline.models.lora import is_adapter
from pipeline.runtime.config import parse
from pipeline.runtime.errors import DataError, ModelError
from pipeline.tasks import find_task
from pipeline.tasks.loading import RowSettings, iter_rows
from pipeline.tasks.rows import Row
from pipeline.workspace.dataset_detection import fits

_TOKENIZERS = ("tokenizer*", "vocab*", "*.model", "merges.txt")  # names of the files of a tokenizer
_ROWS = 100  # of each split; a column may be missing in some of them
_WEIGHTS = ("*.safetensors", "*.bin")


def check_inputs(document: Mapping[str, Any]) -> None:
    """Check the data and the models that a valid params.yaml names, as far as they are on this machine.

    Raises:
        UserError: Something is not there or does not fit.
    """
    task = document["task"]
    settings = parse(find_task(task["name"]).settings, task["settings"], where="task.settings")
    if isinstance(settings, RowSettings):
        check_rows(settings)
    needed = task["max_prompt_tokens"], document["rollout"]["sampling"]["max_new_tokens"]
    names = {"teacher.model": document["teacher"]["model"]}
    students = {f"student.{name}.model": document["student"][name]["model"] for name in document["students"]}
    for where, name in (names | students).items():
        if isinstance(name, str) and (name != "teacher" or where == "teacher.model"):
            limits = check_model(name, where)
            if limits is not None:
                limits.check(*needed, where=f"{where} with task.max_prompt_tokens and rollout.sampling.max_new_tokens")


def check_rows(settings: RowSettings) -> None:
    """Check that the first row of each split of local data has the columns that the settings name.

    Raises:
        DataError: There is no such file, or the row has other columns.
    """
    if not Path(settings.data).expanduser().exists() and settings.data[:1] not in "./~":
        return  # a name on the hub
    fields = [field for field in type(settings).__dataclass_fields__ if field.endswith("_column")]
    columns = {field: column for field in fields if (column := getattr(settings, field)) is not None}
    for split in (settings.heldout_split, settings.train_split):
        rows = list(islice(iter_rows(settings, split, [*columns.values()]), _ROWS))
        for column in columns.values():
            if not any(row.has(column) for row in rows):
                got = f"columns {', '.join(dict.fromkeys(name for row in rows for name in row.values))}"
                raise DataError(rows[0].where, expected=f"a column {column!r}", got=got, remedy="fix task.settings")
        for field, column in columns.items():
            _check_type(rows, field, column)


def _check_type(rows: Sequence[Row], field: str, column: str) -> None:
    """Check that the rows with a value in a column hold what the field is for."""
    for row in rows:
        value = row.value(column)
        if value not in (None, []) and not fits(field, "", value):
            expected = "a list of messages with role and content" if field == "messages_column" else "text"
            raise row.wrong_type(column, expected, value)


def check_model(name: str, where: str) -> Context | None:
    """Check that a model can be read, as far as small files show it.

    Args:
        name: The model as params.yaml has it.
        where: The parameter or option that names it.

    Returns:
        The context limit of a model in a local directory; None where only reading the model shows it.

    Raises:
        ModelError: There is no such model, or its directory lacks a file.
    """
    if not name.strip():
        raise _no_model(where, f"{name!r}", "name a model")
    source, options = locate(name, where)
    path = Path(source).expanduser()
    if options or is_export(path):
        return None
    if path.is_dir():
        return None if is_adapter(path) else _check_directory(path, where)
    if path.exists():
        raise _no_model(where, f"the file {name}", "name the directory that it is in, or a .gguf file")
    if name[:1] in "./~" or name.count("/") > 1:
        raise _no_model(where, f"nothing at {name!r}", "correct the path")
    _check_hub_name(name, where)
    return None


def _check_directory(path: Path, where: str) -> Context:
    for kind, patterns in (("weights", _WEIGHTS), ("a tokenizer", _TOKENIZERS)):
        if not any(file for pattern in ("config.json", *patterns) for file in path.glob(pattern)):
            files = ", ".join(sorted(file.name for file in path.iterdir())[:6]) or "no file"
            raise _no_model(where, f"{path} with {files}", "name a directory that transformers saved")
        if not any(file for pattern in patterns for file in path.glob(pattern)):
            remedy = "save it there with `save_pretrained`, or copy the files of the model's page"
            raise _no_model(where, f"{path} without {kind}", remedy)
    try:
        return context(AutoConfig.from_pretrained(path, trust_remote_code=False))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        got = " ".join(str(error).split())[:160] or type(error).__name__
        raise _no_model(where, f"{path / 'config.json'} ({got})", "copy the model's own config.json") from error


def _check_hub_name(name: str, where: str) -> None:
    try:
        cached = try_to_load_from_cache(name, "config.json")
    except HFValidationError as error:
        raise _no_model(where, f"{name!r} ({' '.join(str(error).split())[:120]})", "correct the name") from error
    if constants.HF_HUB_OFFLINE and not isinstance(cached, str):
        got = f"{name!r}, no directory here, and not in the hub's cache"
        raise _no_model(where, got, "correct the name, or unset HF_HUB_OFFLINE to fetch it")


def _no_model(where: str, got: str, remedy: str) -> ModelError:
    return ModelError(where, expected="a hub name, a directory of a model or a .gguf file", got=got, remedy=remedy)
