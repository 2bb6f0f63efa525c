"""Read a T5 from its quantised ONNX export, encoder.onnx and decoder.onnx in one directory, as a transformers model.

* An exported graph has no module names for its matrices, but its nodes have: the product with the output
  /m/decoder/block.0/layer.0/SelfAttention/q/MatMul_output_0 multiplies with the matrix of that module.
* Integers become floats by their scale and zero point. The sizes in the configuration follow from the matrices' shapes.
* Guarantee: a weight that only the model or only the files have raises a ModelError.
* Cost: about one second for 90 MB.
"""

import re
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from pipeline.models.architectures import untie_head
from pipeline.runtime.errors import ModelError

FILES = ("encoder.onnx", "decoder.onnx")
_MATRIX = re.compile(r"/(?:\w+/)??((?:encoder|enc|decoder)/.*)/MatMul_output_0_output_quantized")
_LOGITS = "logits_output_quantized"
_NAMED = re.compile(r"(?:\w+\.)??((?:encoder|enc|decoder)\..*|shared\.weight)")


def is_export(path: Path) -> bool:
    """Return whether a directory holds an ONNX export and no transformers model."""
    return all((path / name).is_file() for name in FILES) and not (path / "config.json").exists()


def load_export(path: Path) -> Any:
    """Return the T5 of an export in float32.

    Raises:
        ModelError: When the `onnx` package is not installed, or when the files are no complete T5.
    """
    try:
        import onnx
    except ImportError as error:
        expected, remedy = "the package onnx, which reads this model", "run `pip install onnx`"
        raise ModelError(path, expected=expected, got=str(error), remedy=remedy) from error
    from google.protobuf.message import DecodeError

    weights: dict[str, Tensor] = {}
    try:
        for name in FILES:
            weights |= _weights(onnx.load(path / name).graph)
        model = transformers.T5ForConditionalGeneration(_config(weights))
        untie_head(model).load_state_dict(weights | _shared(weights))
    except (DecodeError, KeyError, IndexError, StopIteration, TypeError, ValueError, RuntimeError) as error:
        got = " ".join(str(error).split())[:160] or type(error).__name__
        expected, remedy = "a quantised T5 in ONNX", "use a transformers model directory"
        raise ModelError(path, expected=expected, got=got, remedy=remedy) from error
    return model


def _weights(graph: Any) -> dict[str, Tensor]:
    """Return the weights of an ONNX graph by their transformers names."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    weights: dict[str, Tensor] = {}
    # Embeddings, norms and position biases have the names of their modules.
    for name in tensors:
        bare = name.removesuffix("_quantized")
        if not name.endswith(("_scale", "_zero_point")) and (match := _NAMED.fullmatch(bare)):
            weights[_transformers_name(match[1])] = _floats(tensors, bare)
    # Matrices have a number for a name; the node that multiplies with one bears the name of its module.
    for node in graph.node:
        match = _MATRIX.fullmatch(node.output[0])
        if match or node.output[0] == _LOGITS:
            module = _transformers_name(match[1]) if match else "lm_head"
            matrix = _floats(tensors, node.input[1].removesuffix("_quantized"))
            weights[f"{module}.weight"] = matrix.T.contiguous()
    return weights


def _transformers_name(path: str) -> str:
    return re.sub(r"^enc\b", "encoder", path.replace("/", "."))


def _floats(tensors: dict[str, Any], name: str) -> Tensor:
    """Return the initializer `name`, dequantised where the graph holds it as integers."""
    if name in tensors:
        return _tensor(tensors[name])
    whole = _tensor(tensors[f"{name}_quantized"]).float() - _tensor(tensors[f"{name}_zero_point"]).float()
    return whole * _tensor(tensors[f"{name}_scale"])


def _tensor(initializer: Any) -> Tensor:
    from onnx import numpy_helper

    return torch.from_numpy(numpy_helper.to_array(initializer).copy())


def _config(weights: dict[str, Tensor]) -> "transformers.T5Config":
    """Return the configuration whose sizes are the shapes of the weights; other fields keep T5's defaults."""
    attention = "encoder.block.0.layer.0.SelfAttention"
    buckets, heads = weights[f"{attention}.relative_attention_bias.weight"].shape
    inner, width = weights[f"{attention}.q.weight"].shape
    gated = "encoder.block.0.layer.1.DenseReluDense.wi_0.weight" in weights
    return transformers.T5Config(
        vocab_size=len(weights["lm_head.weight"]),
        d_model=width,
        d_kv=inner // heads,
        d_ff=weights["encoder.block.0.layer.1.DenseReluDense.wo.weight"].shape[1],
        num_layers=_depth(weights, "encoder"),
        num_decoder_layers=_depth(weights, "decoder"),
        num_heads=heads,
        relative_attention_num_buckets=buckets,
        feed_forward_proj="gated-gelu" if gated else "relu",
        decoder_start_token_id=0,
        tie_word_embeddings=not gated,  # T5 1.1 introduced gates and dropped the scale of a tied head
    )


def _depth(weights: dict[str, Tensor], stack: str) -> int:
    return 1 + max(int(name.split(".")[2]) for name in weights if name.startswith(f"{stack}.block."))


def _shared(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the embedding under each of its three names; either file may hold it."""
    names = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    table = next(weights[name] for name in names if name in weights)
    return dict.fromkeys(names, table)
