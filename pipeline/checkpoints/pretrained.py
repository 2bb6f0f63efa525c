"""Load a model from any source: hub name, directory, LoRA adapter, GGUF file, T5 in ONNX, or installed package.

* Every model enters the pipeline once, through this module, and leaves as an ordinary model directory (safetensors,
  configuration, tokenizer) that DVC tracks.
* Cost: dequantising a GGUF file takes 16 s for 135M parameters.
"""

import importlib.util
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig

from pipeline.checkpoints.adapters import AdapterSource, find_adapter, has_tokenizer, merge_adapter, without_base
from pipeline.checkpoints.onnx_t5 import is_export, load_export
from pipeline.checkpoints.quantised import (
    check_numbers,
    forget_quantisation,
    forget_reading,
    plan_dequantising,
    whole_blocks,
)
from pipeline.checkpoints.random_init import FRESH, FreshParams, make_fresh
from pipeline.checkpoints.sources import card_field
from pipeline.checkpoints.text_models import text_model, without_use
from pipeline.models.architectures import auto_class
from pipeline.models.round_trip import in_dtype, wrong_keys
from pipeline.models.tokenizer import load_tokenizer, load_tokenizer_file
from pipeline.runtime.errors import ModelError, UserError
from pipeline.runtime.progress import bar

_PACKAGE = "package:"


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherParams:
    """The teacher's source."""

    model: str | FreshParams
    """Hub name, directory, .gguf file, or package:MODULE/PATH; a mapping describes a randomly initialised model."""
    revision: str | None
    """Branch, tag or commit of a hub model; null is its default branch."""
    dtype: Literal["bfloat16", "float32"]
    """Number format of the weights on disk."""


def load_teacher(p: TeacherParams, *, where: str) -> tuple[str, Any, Any]:
    """Return the name, the model and the tokenizer of a teacher.

    Args:
        p: The teacher's section of params.yaml.
        where: The parameter that names the model, for messages.

    Raises:
        ModelError: When the model or its tokenizer cannot be loaded.
        ParameterError: When the configuration of a randomly initialised teacher makes no model.
    """
    dtype = getattr(torch, p.dtype)
    if isinstance(p.model, str):
        return p.model, *load_pretrained(p.model, p.revision, dtype=dtype, where=where)
    model, tokenizer = make_fresh(p.model, where=where)
    return f"{FRESH}{p.model.config['model_type']}", in_dtype(model, dtype), tokenizer


def load_pretrained(model: str, revision: str | None, *, dtype: torch.dtype, where: str) -> tuple[Any, Any]:
    """Return model and tokenizer from any source.

    Args:
        model: The name in params.yaml.
        revision: Branch, tag or commit of a hub model.
        dtype: Number format of the returned weights.
        where: The parameter that names the model, for messages.

    Raises:
        ModelError: When the source does not exist, cannot be reached or is damaged, or lacks a weight.
    """
    source, options = locate(model, where)
    if is_export(Path(source)):
        with bar(f"read {model}", 2, unit="parts") as meter:
            loaded = in_dtype(load_export(Path(source)), dtype)
            meter.update()
            tokenizer = load_tokenizer_file(Path(source) / "tokenizer.json")
            meter.update()
        return loaded, tokenizer
    if not options and (adapter := find_adapter(source, revision, where=where)):
        return _merged(adapter, model, dtype=dtype, where=where)
    if revision is not None:
        options["revision"] = revision
    try:
        gguf = _gguf_read_once() if "gguf_file" in options else nullcontext()
        with gguf, bar(f"read {model}", 2, unit="parts") as meter:
            meter.set_postfix(now="tokenizer")
            tokenizer = load_tokenizer(source, **options)
            meter.update()
            meter.set_postfix(now="weights")
            loaded = _weights(model, source, options, where)
            meter.update()
    except ModelError as error:
        # The tokenizer's own message does not name the parameter; that of a damaged file names the file.
        known = error.where == where or Path(error.where).is_file()
        raise error if known else _unavailable(where, model, str(error)) from error
    except UserError:
        raise
    except Exception as error:  # transformers raises exceptions of any type
        plain = isinstance(error, OSError | ValueError | ImportError | RuntimeError | SafetensorError)
        reason = str(error).strip() if plain else f"{type(error).__name__}: {error}"
        raise _unavailable(where, model, reason or type(error).__name__) from error
    return in_dtype(text_model(loaded), dtype), tokenizer


def _weights(model: str, source: str, options: dict[str, Any], where: str) -> Any:
    """Return the model in float32, dequantised, with a value for every weight of the files and of its own."""
    config, quantised = AutoConfig.from_pretrained(source, trust_remote_code=False, **options), False
    file = Path(source) / options["gguf_file"] if "gguf_file" in options else None
    if file is not None:
        from pipeline.checkpoints import gguf_files  # no other source needs it

        gguf_files.add_rope_scaling(config, file, where=where)
    else:
        revision = options.get("revision")
        origin = card_field(source, "base_model", revision)
        quantised = plan_dequantising(config, where=where, model=model, origin=origin)
        check_numbers(source, config, revision=revision, where=where, model=model, origin=origin)
    # Given the configuration, transformers does not read it a second time. Other shapes are reported, as names are.
    options = options | {"ignore_mismatched_sizes": True}
    with whole_blocks() if quantised else nullcontext():
        loaded, info = auto_class(config).from_pretrained(
            source, config=config, dtype=torch.float32, output_loading_info=True, **options
        )
    if file is not None:
        gguf_files.check_biases(loaded, file, where=where)
    unexpected = set(info["unexpected_keys"])
    info["unexpected_keys"] = unexpected - without_use(config, unexpected)
    if finding := wrong_keys(info):
        expected, remedy = "the weights of its configuration", "get the model again, or take it unquantised"
        raise ModelError(where, expected=expected, got=f"{finding}, in {model!r}", remedy=remedy)
    return forget_quantisation(forget_reading(loaded) if quantised else loaded)


def _merged(adapter: AdapterSource, name: str, *, dtype: torch.dtype, where: str) -> tuple[Any, Any]:
    """Return an adapter merged into its base, and the tokenizer of the adapter, or of the base if it has none."""
    try:
        base, tokenizer = load_pretrained(adapter.base, adapter.revision, dtype=torch.float32, where=where)
    except ModelError as error:
        raise without_base(adapter, name, error, where=where) from error
    if has_tokenizer(adapter):
        tokenizer = load_tokenizer(adapter.folder)
    return in_dtype(merge_adapter(adapter, base, where=where), dtype), tokenizer


def _gguf_read_once() -> AbstractContextManager[Any]:
    """Return a context that shares one reader of a GGUF file between tokenizer, configuration and weights.

    transformers opens the file for each of the three, and makes the table of tensor names for every module, which
    doubles the time.
    """
    import gguf  # no other source needs it

    cached: Any = {name: cache(getattr(gguf, name)) for name in ("GGUFReader", "get_tensor_name_map")}
    patcher: AbstractContextManager[Any] = patch.multiple(gguf, **cached)
    return patcher


def locate(model: str, where: str) -> tuple[str, dict[str, Any]]:
    """Return the source of a model as `from_pretrained` takes it, and the options that it needs there.

    Raises:
        ModelError: When `model` names a package or a GGUF file that does not exist.
    """
    if model.startswith(_PACKAGE):
        module, _, file = model.removeprefix(_PACKAGE).partition("/")
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):  # no parent package, or an empty name
            spec = None
        if spec is None or spec.origin is None:
            raise ModelError(where, expected=f"package {module}", got="none installed", remedy="run `make setup`")
        model = str(Path(spec.origin).parent / file)
    path = Path(model)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(where, expected=f"a file at {model}", got="nothing", remedy="run `make setup`")
        return str(path.parent), {"gguf_file": path.name}
    return model, {}


def locate_weights(model: str, where: str) -> tuple[str, dict[str, Any]]:
    """Return the same for the weights of a model: an adapter's base instead of the adapter.

    Raises:
        ModelError: When there is no such package or file, or when a directory holds something else than a LoRA adapter.
    """
    source, options = locate(model, where)
    adapter = None if options else find_adapter(source, None, where=where)
    return locate_weights(adapter.base, where) if adapter else (source, options)


def _unavailable(where: str, model: str, reason: str) -> ModelError:
    expected, got = "a hub name, a local model directory or a GGUF file", f"{model!r} ({reason.splitlines()[0][:160]})"
    unknown = ("nrecognized configuration class", "not recognize this architecture", "custom code")
    if any(part in reason for part in unknown):
        remedy = "take an architecture that writes text in this version of transformers"
    elif pointer := _lfs_pointer(Path(model)):
        remedy = f"run `git lfs pull` there: {pointer} is a pointer of git-lfs"
    else:
        remedy = "check the name, the network and HF_HUB_OFFLINE"
    return ModelError(where, expected=expected, got=got, remedy=remedy)


def _lfs_pointer(folder: Path) -> str | None:
    """Return the name of a file of which a directory holds only git-lfs's pointer, or None."""
    files = [*folder.glob("*.safetensors"), *folder.glob("*.json"), *folder.glob("*.model")]
    return next((file.name for file in sorted(files) if _begins(file, b"version https://git-lfs")), None)


def _begins(file: Path, start: bytes) -> bool:
    with file.open("rb") as content:
        return content.read(len(start)) == start


def stored_dtype(path: Path) -> torch.dtype:
    """Return the number format of the weights in a model directory."""
    with safe_open(min(path.glob("*.safetensors")), framework="pt") as file:
        tensor: torch.Tensor = file.get_tensor(next(iter(file.keys())))
        return tensor.dtype
