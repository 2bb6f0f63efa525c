"""Make a model of a LoRA adapter from outside: find its base, and merge the two."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from pipeline.checkpoints.sources import fetch
from pipeline.models import lora
from pipeline.runtime.errors import ModelError

_FILES = ("adapter_config.json", "adapter_model.safetensors")
_KINDS = {"LORA"}


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSource:
    """An adapter, and the model that it changes."""

    folder: Path  # Where its files are
    base: str  # Hub name or directory
    revision: str | None  # Of a base on the hub


def find_adapter(source: str, revision: str | None, *, where: str) -> AdapterSource | None:
    """Return the adapter that a hub name or a directory holds, or None where it holds none.

    Raises:
        ModelError: When its files are damaged, or when it is no LoRA adapter.
    """
    file = fetch(source, _FILES[0], revision)
    if file is None:
        return None
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        kind, base = str(config["peft_type"]), str(config["base_model_name_or_path"] or "")
    except (ValueError, KeyError, TypeError) as error:
        raise _wrong(where, source, f"a damaged {_FILES[0]} ({error!r})", "get the adapter again") from error
    if kind not in _KINDS:
        raise _wrong(where, source, f"one of kind {kind}", "merge it into its base with peft, and name the result")
    if config.get("layer_replication"):
        raise _wrong(where, source, "one that repeats layers of its base", "name another adapter or model")
    if not base:
        raise _wrong(where, source, "one that names no base", f"set base_model_name_or_path in its {_FILES[0]}")
    if fetch(source, _FILES[1], revision) is None:
        raise _wrong(where, source, f"one without {_FILES[1]}", "get the adapter again, in safetensors")
    for directory in (file.parent / base, Path(base)):
        if directory.is_dir():
            return AdapterSource(folder=file.parent, base=str(directory.resolve()), revision=None)
    return AdapterSource(folder=file.parent, base=base, revision=config.get("revision"))


def merge_adapter(adapter: AdapterSource, model: Any, *, where: str) -> Any:
    """Return the base model with the adapter merged into its weights.

    Raises:
        ModelError: When the adapter does not fit its base.
    """
    try:
        return lora.load_adapter(model, adapter.folder, to_train=False)
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError, SafetensorError) as error:
        got = f"one that does not fit its base {adapter.base!r} ({' '.join(str(error).split())[:160]})"
        raise _wrong(where, str(adapter.folder), got, "merge the two with peft, and name the result") from error


def without_base(adapter: AdapterSource, name: str, error: ModelError, *, where: str) -> ModelError:
    """Return the error of an adapter whose base cannot be loaded."""
    expected = f"the base model {adapter.base!r} of the adapter {name!r}, to merge the two"
    remedy = "get the base, or name a model that has the adapter merged (peft: merge_and_unload, save_pretrained)"
    return ModelError(where, expected=expected, got=error.got, remedy=remedy)


def has_tokenizer(adapter: AdapterSource) -> bool:
    """Return whether an adapter brings a tokenizer of its own."""
    return (adapter.folder / "tokenizer_config.json").is_file()


def _wrong(where: str, name: str, got: str, remedy: str) -> ModelError:
    return ModelError(where, expected=f"a LoRA adapter in {name!r}", got=got, remedy=remedy)
