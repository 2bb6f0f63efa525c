"""Model directories from wherever a model may be: a hub name, a local directory, a GGUF file, or the teacher itself.

Every model enters the pipeline once, through here, and leaves as an ordinary directory (safetensors, config,
tokenizer) that DVC tracks. A GGUF file is dequantised (16 s for 135M parameters). Students are cut from another model
by keeping some of its layers, of encoder and decoder where it has both, or start fresh from a configuration.
"""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig

from pipeline.checkpoints.onnx_t5 import is_export, load_export
from pipeline.checkpoints.random_init import FreshParams
from pipeline.models.architectures import auto_class
from pipeline.models.tokenizer import load_tokenizer, load_tokenizer_file
from pipeline.runtime.errors import ModelError
from pipeline.runtime.progress import bar

_PACKAGE = "package:"


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherParams:
    """Where the teacher comes from."""

    model: str | FreshParams
    """Hub name, local directory (of transformers, or of a T5 in ONNX), path of a .gguf file, or package:MODULE/PATH of
    one of these in an installed package; or a mapping: a fresh model."""
    revision: str | None
    """Branch, tag or commit of a hub model; null is its default branch."""
    dtype: Literal["bfloat16", "float32"]
    """Of the weights on disk."""


def load_pretrained(model: str, revision: str | None, *, dtype: torch.dtype, where: str) -> tuple[Any, Any]:
    """Model and tokenizer from any source; a ModelError with the remedy when they cannot be had."""
    source, options = locate(model, where)
    if is_export(Path(source)):
        with bar(f"read {model}", 2, unit="parts") as meter:
            meter.set_postfix(now="weights")
            loaded = load_export(Path(source)).to(dtype)
            meter.update()
            tokenizer = load_tokenizer_file(Path(source) / "tokenizer.json")
            meter.update()
        return loaded, tokenizer
    if revision is not None:
        options["revision"] = revision
    try:
        once = _gguf_read_once() if "gguf_file" in options else nullcontext()
        with once, bar(f"read {model}", 3, unit="parts") as meter:
            meter.set_postfix(now="tokenizer")
            tokenizer = load_tokenizer(source, **options)
            meter.set_postfix(now="configuration")
            meter.update()
            config = AutoConfig.from_pretrained(source, **options)  # not a second time below
            meter.set_postfix(now="weights")
            meter.update()
            loaded, found = auto_class(config).from_pretrained(
                source, config=config, dtype=torch.float32, output_loading_info=True, **options
            )
            meter.update()
    except ModelError as error:
        raise _unavailable(where, model, error) from error
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise _unavailable(where, model, error) from error
    if missing := found["missing_keys"]:  # transformers gives them random values and a warning
        raise _unavailable(where, model, ValueError(f"no value for {len(missing)} weights, such as {min(missing)}"))
    return _dequantised(loaded).to(dtype), tokenizer


@contextmanager
def _gguf_read_once() -> Iterator[None]:
    """One reader for tokenizer, configuration and weights of a GGUF file, one table of tensor names.

    transformers opens the file for each of the three and makes the table for every module: half of the time.
    """
    import gguf  # no other source needs it

    whole = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    try:
        for name, one in whole.items():
            setattr(gguf, name, cache(one))
        yield
    finally:
        for name, one in whole.items():
            setattr(gguf, name, one)


def locate(model: str, where: str) -> tuple[str, dict[str, Any]]:
    """What to hand to from_pretrained, and with which options."""
    if model.startswith(_PACKAGE):
        module, _, file = model.removeprefix(_PACKAGE).partition("/")
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):  # no parent package, or no name at all
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


def _unavailable(where: str, model: str, error: Exception) -> ModelError:
    first = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
    return ModelError(
        where,
        expected="a hub name, a local model directory or a GGUF file",
        got=f"{model!r} ({first})",
        remedy="check the name, the network and HF_HUB_OFFLINE",
    )


def _dequantised(model: Any) -> Any:
    """Forget that the weights came from a quantised file, so that they are saved as ordinary ones."""
    if getattr(model.config, "quantization_config", None) is not None:
        model.hf_quantizer, model.is_quantized = None, False
        del model.config.quantization_config
    return model


def stored_dtype(path: Path) -> torch.dtype:
    """Of a model directory's weights on disk."""
    with safe_open(min(path.glob("*.safetensors")), framework="pt") as file:
        tensor: torch.Tensor = file.get_tensor(next(iter(file.keys())))
        return tensor.dtype
