"""Read quantised weights as ordinary ones, or say which model to take instead.

* FP8 (DeepSeek, Qwen) and MXFP4 (gpt-oss) are dequantised by transformers while it reads, exactly: each number times
  the scale of its block. GGUF and ONNX have paths of their own in `pretrained`.
* transformers divides the rows of an FP8 matrix evenly among its scales, which is wrong where the last block is
  smaller (576 rows in blocks of 128). `whole_blocks` mends that.
* Everything else needs packages and processors that this project does not have, and is refused.
"""

from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from pipeline.runtime.errors import ModelError

_DEQUANTISED = {"fp8", "mxfp4"}


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
        known = f", {origin}," if origin else ""
        remedy = f"take the model that it was quantised from{known} or a GGUF file of it"
        expected = "weights that are not quantised, or in FP8, MXFP4 or GGUF"
        raise ModelError(where, expected=expected, got=f"{method} weights in {model!r}", remedy=remedy)
    quantisation["dequantize"] = True
    return True


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
