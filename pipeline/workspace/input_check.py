"""Look at what params.yaml names before any model is read: the data's first rows, and the models' directories.

* `stillroom init`, the stage `plan` and `stillroom doctor` make the same checks.
* From the hub come the names of a repository's files, its configuration and the first rows. A hub that cannot be
  reached is no error, but with HF_HUB_OFFLINE a name that is not in the cache is refused.
* Cost: the first rows of each split and small files: less than a second here, a few seconds from the hub.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError
from transformers import AutoConfig

from pipeline.checkpoints.onnx_t5 import is_export
from pipeline.checkpoints.pretrained import locate
from pipeline.models.context import Context, context
from pipeline.models.lora import is_adapter
from pipeline.runtime.config import parse
from pipeline.runtime.errors import DataError, ModelError
from pipeline.tasks import find_task
from pipeline.tasks.loading import RowSettings, is_path, iter_rows
from pipeline.tasks.rows import Row
from pipeline.workspace.dataset_detection import fits
from pipeline.workspace.hub import cached_files, hub_files

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
    sections = {"teacher.model": document["teacher"]}
    sections |= {f"student.{name}.model": document["student"][name] for name in document["students"]}
    for where, section in sections.items():
        name = section["model"]
        if isinstance(name, str) and (name != "teacher" or where == "teacher.model"):
            limits = check_model(name, where, section.get("revision"))
            if limits is not None:
                limits.check(*needed, where=f"{where} with task.max_prompt_tokens and rollout.sampling.max_new_tokens")


def check_rows(settings: RowSettings) -> None:
    """Check that the first rows of each split have the columns that the settings name.

    Raises:
        DataError: There is no such data, or the rows have other columns.
    """
    if not is_path(settings.data) and not _can_read(settings):
        return
    fields = [field for field in type(settings).__dataclass_fields__ if field.endswith("_column")]
    columns = {field: column for field in fields if (column := getattr(settings, field)) is not None}
    for split in (settings.heldout_split, settings.train_split):
        with closing(iter_rows(settings, split, [*columns.values()], streaming=True)) as stream:
            rows = list(islice(stream, _ROWS))
        for column in columns.values():
            if not any(row.has(column) for row in rows):
                got = f"columns {', '.join(dict.fromkeys(name for row in rows for name in row.values))}"
                raise DataError(rows[0].where, expected=f"a column {column!r}", got=got, remedy="fix task.settings")
        for field, column in columns.items():
            _check_type(rows, field, column)


def _can_read(settings: RowSettings) -> bool:
    """Return whether the hub, or while it may not be asked its cache, can be read for rows."""
    offline = bool(constants.HF_HUB_OFFLINE)
    return offline or hub_files("dataset", settings.data, settings.revision, where="task.settings.data") is not None


def _check_type(rows: Sequence[Row], field: str, column: str) -> None:
    """Check that the rows with a value in a column hold what the field is for."""
    for row in rows:
        value = row.value(column)
        if value not in (None, []) and not fits(field, "", value):
            expected = "a list of messages with role and content" if field == "messages_column" else "text"
            raise row.wrong_type(column, expected, value)


def check_model(name: str, where: str, revision: str | None = None) -> Context | None:
    """Check that a model can be read, as far as small files show it.

    Args:
        name: The model as params.yaml has it.
        where: The parameter or option that names it.
        revision: Branch, tag or commit on the hub.

    Returns:
        The context limit of a model, None where only reading the model shows it.

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
        names = [file.name for file in path.iterdir()]
        return None if is_adapter(path) else _check_files(str(path), names, where, None)
    if path.exists():
        raise _no_model(where, f"the file {name}", "name the directory that it is in, or a .gguf file")
    if name[:1] in "./~" or name.count("/") > 1:
        raise _no_model(where, f"nothing at {name!r}", "correct the path")
    files = hub_files("model", name, revision, where=where)
    files = cached_files(name, revision) if files is None else files
    if files is None and constants.HF_HUB_OFFLINE:
        got = f"{name!r}, no directory here, and not in the hub's cache"
        raise _no_model(where, got, "correct the name, or unset HF_HUB_OFFLINE to fetch it")
    return None if files is None or _any(files, "adapter_config.json") else _check_files(name, files, where, revision)


def _check_files(source: str, names: Collection[str], where: str, revision: str | None) -> Context:
    """Return the context limit of a model with these files, in a directory or on the hub."""
    for kind, patterns in (("weights", _WEIGHTS), ("a tokenizer", _TOKENIZERS)):
        if not _any(names, "config.json", *patterns):
            files = ", ".join(sorted(names)[:6]) or "no file"
            remedy = "name a .gguf file of it" if _any(names, "*.gguf") else "name a model that transformers saved"
            raise _no_model(where, f"{source} with {files}", remedy)
        if not _any(names, *patterns):
            remedy = "save it there with `save_pretrained`, or copy the files of the model's page"
            raise _no_model(where, f"{source} without {kind}", remedy)
    try:
        return context(AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        got = " ".join(str(error).split())[:160] or type(error).__name__
        gated = isinstance(error.__cause__, GatedRepoError)
        remedy = "ask for access on its page, then `hf auth login`" if gated else "copy the model's own config.json"
        raise _no_model(where, f"{source}/config.json ({got})", remedy) from error


def _any(names: Collection[str], *patterns: str) -> bool:
    return any(fnmatch(name, pattern) for name in names for pattern in patterns)


def _no_model(where: str, got: str, remedy: str) -> ModelError:
    return ModelError(where, expected="a hub name, a directory of a model or a .gguf file", got=got, remedy=remedy)
