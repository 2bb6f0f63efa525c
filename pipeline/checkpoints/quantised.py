"""Read quantised weights as ordinary ones, or say which model to take instead.

* FP8 (DeepSeek, Qwen) and MXFP4 (gpt-oss) are dequantised by transformers while it reads, exactly: each number times
  the scale of its block. GGUF and ONNX have paths of their own in `pretrained`.
* transformers divides the rows of an FP8 matrix evenly among its scales, which is wrong where the last block is
  smaller (576 rows in blocks of 128). `whole_blocks` mends that.
* Everything else needs packages and processors that this project does not have, and is refused.
* So are integers and FP8 numbers that no configuration describes, which transformers would take for the weights
  themselves. Cost: reading the headers of the files.
"""

import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors import safe_open
from torch import Tensor

from pipeline.checkpoints.sources import fetch
from pipeline.checkpoints.text_models import without_use
from pipeline.models.architectures import auto_class
from pipeline.runtime.errors import ModelError

_DEQUANTISED = {"fp8", "mxfp4"}
_NOT_QUANTISED = {"F64", "F32", "F16", "BF16", "BOOL", "float64", "float32", "float16", "bfloat16", "bool"}
# Where programs describe quantised weights other than in `quantization_config`: keys of the configuration, and files.
_OTHER_KEYS = ("compression_config", "quantization")
_OTHER_FILES = ("hf_quant_config.json", "quantize_config.json", "quant_config.json")


def plan_dequantising(config: Any, *, where: str, model: str, origin: str | None) -> bool:
    """Let `from_pretrained` dequantise the weights of this configuration, and return whether they are quantised.

    Args:
        config: The configuration, which is changed in place.
        where: The parameter that names the model, for messages.
        model: The name of the model.
        origin: The model that it was quantised from, as far as its card says.

    Raises:
        ModelError: When these weights cannot be dequantised.
    """
    quantisation = _quantisation(config)
    if quantisation is None:
        return False
    method = _method(quantisation)
    if method not in _DEQUANTISED:
        raise _quantised(where, f"{method} weights in {model!r}", origin)
    quantisation["dequantize"] = True
    return True


def check_numbers(
    source: str, config: Any, *, revision: str | None, where: str, model: str, origin: str | None
) -> None:
    """Check that a model's files hold floating-point weights, or quantised ones beside their scales as configured.

    Args:
        source: A directory or a hub name; files on the hub are fetched.
        config: The configuration, after `plan_dequantising`.
        revision: Branch, tag or commit of a hub model.
        where: The parameter that names the model, for messages.
        model: The name of the model.
        origin: The model that it was quantised from, as far as its card says.

    Raises:
        ModelError: When a weight consists of integers or FP8 numbers that nothing would scale.
    """
    formats = {name: kind for file in _weight_files(source, config, revision) for name, kind in _formats(file).items()}
    codes = {name for name, kind in formats.items() if kind not in _NOT_QUANTISED}
    if _quantisation(config) is not None:
        scaled = {_module(name) for name in formats if "scale" in name}
        codes = {name for name in codes if _module(name) not in scaled}
    if codes and (codes := codes - _stored_integers(config, codes)):
        kinds = ", ".join(sorted({formats[name] for name in codes}))
        got = f"{kinds} numbers for {len(codes)} weights, such as {min(codes)}, in {model!r} "
        got += "without scales" if _quantisation(config) else _description(source, config, revision)
        raise _quantised(where, got, origin)


def _quantised(where: str, got: str, origin: str | None) -> ModelError:
    known = f", {origin}," if origin else ""
    remedy = f"take the model that it was quantised from{known} or a GGUF file of it"
    expected = "weights that are not quantised, or in FP8, MXFP4 or GGUF"
    return ModelError(where, expected=expected, got=got, remedy=remedy)


def _weight_files(source: str, config: Any, revision: str | None) -> list[Path]:
    """Return the files from which `from_pretrained` would read the weights."""
    from transformers.modeling_utils import _get_resolved_checkpoint_files

    files, _ = _get_resolved_checkpoint_files(
        source,
        variant=None,
        gguf_file=None,
        use_safetensors=None,
        user_agent=None,
        is_remote_code=False,
        transformers_explicit_filename=getattr(config, "transformers_weights", None),
        download_kwargs={"revision": revision},
    )
    return [Path(file) for file in files or ()]


def _formats(file: Path) -> dict[str, str]:
    """Return the number format of each tensor in a file, whose numbers are not read."""
    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as content:
            return {name: content.get_slice(name).get_dtype() for name in content.keys()}  # noqa: SIM118, content is no dict
    tensors = torch.load(file, map_location="meta", weights_only=True)
    return {name: str(value.dtype).removeprefix("torch.") for name, value in tensors.items() if torch.is_tensor(value)}


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _stored_integers(config: Any, names: set[str]) -> set[str]:
    """Return those names of tensors that are integers in the model as well, or that the model does not read."""
    with torch.device("meta"):
        model = auto_class(config).from_config(config)
    buffers = {_ending(name) for name, buffer in model.named_buffers() if not buffer.is_floating_point()}
    ignored = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_unexpected or ()]
    unread = {name for name in names if any(pattern.search(name) for pattern in ignored)}
    return unread | without_use(config, names) | {name for name in names if _ending(name) in buffers}


def _ending(name: str) -> str:
    """Return the last two parts of a name, which are the same with and without the prefix of a body."""
    return ".".join(name.split(".")[-2:])


def _description(source: str, config: Any, revision: str | None) -> str:
    """Return where the quantisation of a model without `quantization_config` is described, if a place is known."""
    places = [key for key in _OTHER_KEYS if getattr(config, key, None)]
    places += [name for name in _OTHER_FILES if fetch(source, name, revision)]
    return f"with {', '.join(places) or 'nothing'} instead of quantization_config"


def whole_blocks() -> AbstractContextManager[Any]:
    """Return a context in which each scale of an FP8 matrix belongs to a block of the declared size."""
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize  # no other source needs it

    divide_evenly = Fp8Dequantize._dequantize_one

    def dequantise(op: Any, codes: Tensor, scales: Tensor, output_dtype: torch.dtype | None = None) -> Tensor:
        blocks = op.hf_quantizer.quantization_config.weight_block_size
        grid = [-(-size // block) for size, block in zip(codes.shape[-2:], blocks or (), strict=False)]
        if not blocks or codes.element_size() != 1 or not codes.is_floating_point() or list(scales.shape[-2:]) != grid:
            values: Tensor = divide_evenly(op, codes, scales, output_dtype)
            return values
        scales = torch.exp2(scales.float() - 127) if scales.dtype == torch.uint8 else scales.float()
        for axis, block in zip((-2, -1), blocks, strict=True):
            scales = scales.repeat_interleave(block, axis).narrow(axis, 0, codes.shape[axis])
        return (codes.float() * scales).to(output_dtype or torch.float32)

    patcher: AbstractContextManager[Any] = patch.object(Fp8Dequantize, "_dequantize_one", dequantise)
    return patcher


def forget_quantisation(model: Any) -> Any:
    """Remove the marks of quantised files from a model, so that it is saved as an ordinary one."""
    if getattr(model.config, "quantization_config", None) is not None:
        model.hf_quantizer, model.is_quantized = None, False
        del model.config.quantization_config
    return model


def forget_reading(model: Any) -> Any:
    """Let a dequantised model be saved as it is; transformers would undo the steps with which it read the weights."""
    vars(model).pop("_weight_conversions", None)
    return model


def _quantisation(config: Any) -> Any:
    """Return the section about quantisation, of the configuration or of a nested one."""
    for part in (config, config.get_text_config()):
        if (section := getattr(part, "quantization_config", None)) is not None:
            if not isinstance(section, dict):
                section = section.to_dict()
            part.quantization_config = config.quantization_config = section
            return section
    return None


def _method(section: dict[str, Any]) -> str:
    """Return the name of the method; bitsandbytes has one name for two."""
    bits = next((bits for bits in (4, 8) if section.get(f"load_in_{bits}bit")), None)
    method = str(section.get("quant_method") or "unknown")
    return f"bitsandbytes {bits}-bit" if bits else method
