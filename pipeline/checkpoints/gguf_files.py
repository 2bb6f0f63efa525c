"""Notice what transformers leaves out of a GGUF file: the scaling of rotary positions, and biases.

transformers reads neither `rope.scaling` nor the tensors that turn rotary positions, and passes over tensors without a
place in its model. All of it would be wrong numbers without a word.

* Guarantee: linear and YaRN scaling and the positions of Llama 3.1 and later are put into the configuration; any other
  scaling and any bias without a place are refused.
"""

import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from transformers import modeling_gguf_pytorch_utils

from pipeline.models.architectures import text_config
from pipeline.runtime.errors import ModelError

# What every model of Meta with such positions has; only the factor differs (8 in Llama 3.1, 32 in Llama 3.2).
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
# transformers takes the scaling of these from elsewhere.
_SCALED_ALREADY = ("gpt_oss", "gemma4", "gemma4_text")


def add_rope_scaling(config: Any, file: Path, *, where: str) -> None:
    """Put the scaling of rotary positions that a GGUF file records into the configuration read from it.

    Raises:
        ModelError: When the configuration cannot say what the file records.
    """
    text = text_config(config)
    if text.model_type in _SCALED_ALREADY:
        return
    reader = gguf.GGUFReader(str(file))
    tensors = {tensor.name: tensor.data for tensor in reader.tensors if tensor.name.startswith("rope_")}
    kind = _field(reader, "rope.scaling.type") or "none"
    if kind == "none" and not tensors:
        return
    rope = getattr(text, "rope_parameters", None) or {}
    # In Gemma 3 only the layers of full attention are scaled.
    part = rope.get("full_attention") if text.model_type == "gemma3_text" else None
    scaling = _scaling(reader, kind, tensors, float((part or rope).get("rope_theta", 0.0)))
    nested = any(isinstance(value, dict) for value in rope.values())
    if scaling is None or (nested and part is None) or _others(reader):
        name = "rope.scaling.type " + str(kind) if kind != "none" else ", ".join(tensors)
        raise _unreadable(where, f"{name} in {file.name!r}")
    text.rope_parameters = rope | scaling if part is None else rope | {"full_attention": part | scaling}


def check_biases(model: Any, file: Path, *, where: str) -> None:
    """Check that each bias of a GGUF file has a place in the model, if the weight beside it has one.

    Raises:
        ModelError: When a bias has none.
    """
    names = {tensor.name for tensor in gguf.GGUFReader(str(file)).tensors}
    if not any(name.endswith(".bias") for name in names):
        return
    processor = modeling_gguf_pytorch_utils.TensorProcessor(config=model.config.to_dict())
    placed = modeling_gguf_pytorch_utils.get_gguf_hf_weights_map(model, processor)
    left = {name for name in names - placed.keys() if name.endswith(".bias")}
    if lost := sorted(name for name in left if name.removesuffix("bias") + "weight" in placed):
        raise _unreadable(where, f"{len(lost)} biases in {file.name!r} without a place, such as {lost[0]}")


def _scaling(
    reader: gguf.GGUFReader, kind: object, tensors: dict[str, NDArray[Any]], theta: float
) -> dict[str, Any] | None:
    """Return the fields of `rope_parameters`, or None where they cannot say the same."""
    if not tensors and kind in ("linear", "yarn"):
        factor, original = (_field(reader, f"rope.scaling.{name}") for name in ("factor", "original_context_length"))
        if factor is None or (kind == "yarn" and original is None):
            return None
        scaling = {"rope_type": kind, "factor": float(factor)}
        return scaling | ({"original_max_position_embeddings": int(original)} if kind == "yarn" else {})
    if kind != "none" or list(tensors) != ["rope_freqs.weight"]:
        return None
    divisors = np.asarray(tensors["rope_freqs.weight"], dtype=np.float64)
    if (divisors == 1).all():
        return {}
    factor = float(divisors.max())
    equal = theta > 0 and np.allclose(divisors, _llama3_divisors(factor, theta, len(divisors)), rtol=1e-3)
    return {"rope_type": "llama3", "factor": factor} | _LLAMA3 if equal else None


def _llama3_divisors(factor: float, theta: float, count: int) -> NDArray[np.float64]:
    """Return the numbers by which Llama 3.1 divides its `count` frequencies (llama.cpp, convert_hf_to_gguf.py)."""
    low, high, original = _LLAMA3.values()
    wavelengths = 2 * math.pi * theta ** (np.arange(count) / count)
    smooth = ((original / wavelengths - low) / (high - low)).clip(0, 1)
    divisors: NDArray[np.float64] = 1 / ((1 - smooth) / factor + smooth)
    return divisors


def _others(reader: gguf.GGUFReader) -> bool:
    """Return whether a file says more of the scaling than `_scaling` reads."""
    known = ("type", "factor", "original_context_length", "finetuned")
    return any(".rope.scaling." in name and name.rpartition(".")[2] not in known for name in reader.fields)


def _field(reader: gguf.GGUFReader, name: str) -> Any:
    architecture = reader.get_field("general.architecture")
    field = architecture and reader.get_field(f"{architecture.contents()}.{name}")
    return field.contents() if field else None


def _unreadable(where: str, got: str) -> ModelError:
    expected, remedy = "a GGUF file that transformers reads as a whole", "take the model's safetensors instead"
    return ModelError(where, expected=expected, got=got, remedy=remedy)
