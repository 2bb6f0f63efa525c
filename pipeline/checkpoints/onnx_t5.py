"""A T5 out of its quantised ONNX export: encoder.onnx and decoder.onnx of one directory, as weights of transformers.

An exported graph keeps no module names for its matrices, but its nodes do: the product whose output is called
/m/decoder/block.0/layer.0/SelfAttention/q/MatMul_output_0 reads the matrix of that module. Integers become floats by
their scale and zero point, sizes follow from the matrices' shapes.

Guarantee: a weight that the model has and the files lack, or the other way round, is a ModelError. Cost: a second for
90 MB. Not taken: the packages onnx and onnxruntime, 200 MB for a format whose few fields needed here are read in
twenty lines; they stand in https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from pipeline.models.architectures import untie_head
from pipeline.runtime.errors import ModelError

FILES = ("encoder.onnx", "decoder.onnx")
_GRAPH, _NODE, _INITIALIZER = 7, 1, 5  # of ModelProto, GraphProto, GraphProto
_INPUT, _OUTPUT = 1, 2  # of NodeProto
_DIMS, _TYPE, _FLOATS, _INTS, _NAME, _RAW = 1, 2, 4, 5, 8, 9  # of TensorProto
_DTYPES: dict[int, np.dtype[Any]] = {1: np.dtype("<f4"), 2: np.dtype("u1"), 3: np.dtype("i1")}
_MATRIX = re.compile(r"/(?:\w+/)??((?:encoder|enc|decoder)/.*)/MatMul_output_0_output_quantized")
_LOGITS = "logits_output_quantized"
_NAMED = re.compile(r"(?:\w+\.)??((?:encoder|enc|decoder)\..*|shared\.weight)")


def is_export(path: Path) -> bool:
    """Whether a directory holds such an export and no model of transformers."""
    return all((path / name).is_file() for name in FILES) and not (path / "config.json").exists()


def load_export(path: Path) -> Any:
    """The model, in float32; a ModelError for files of another shape."""
    weights: dict[str, Tensor] = {}
    try:
        for name in FILES:
            weights |= _weights(memoryview((path / name).read_bytes()))
        model = transformers.T5ForConditionalGeneration(_config(weights))
        untie_head(model).load_state_dict(weights | _shared(weights))
    except (KeyError, IndexError, StopIteration, ValueError, RuntimeError) as error:
        got = " ".join(str(error).split())[:160] or type(error).__name__
        raise ModelError(
            path, expected="a quantised T5 in ONNX", got=got, remedy="take a model directory of transformers"
        ) from error
    return model


def _weights(model: memoryview) -> dict[str, Tensor]:
    """By their names in transformers."""
    tensors: dict[str, Tensor] = {}
    found: dict[str, Tensor] = {}
    graph = _message(_message(model)[_GRAPH][0])
    for one in graph[_INITIALIZER]:
        name, tensor = _tensor(_message(one))
        tensors[name] = tensor
    for name in tensors:
        bare = name.removesuffix("_quantized")
        if not name.endswith(("_scale", "_zero_point")) and (match := _NAMED.fullmatch(bare)):
            found[_renamed(match[1])] = _floats(tensors, bare)
    for one in graph[_NODE]:
        node = _message(one)
        output = str(bytes(node[_OUTPUT][0]), "utf-8")
        match = _MATRIX.fullmatch(output)
        if match or output == _LOGITS:
            matrix = str(bytes(node[_INPUT][1]), "utf-8").removesuffix("_quantized")
            module = _renamed(match[1]) if match else "lm_head"
            found[f"{module}.weight"] = _floats(tensors, matrix).T.contiguous()
    return found


def _renamed(path: str) -> str:
    return re.sub(r"^enc\b", "encoder", path.replace("/", "."))


def _floats(tensors: dict[str, Tensor], name: str) -> Tensor:
    if name in tensors:
        return tensors[name]
    whole = tensors[f"{name}_quantized"].float() - tensors[f"{name}_zero_point"].float()
    return whole * tensors[f"{name}_scale"]


def _config(weights: dict[str, Tensor]) -> "transformers.T5Config":
    """Sizes are the matrices'; what no matrix tells is T5's default."""
    first = "encoder.block.0.layer.0.SelfAttention"
    buckets, heads = weights[f"{first}.relative_attention_bias.weight"].shape
    inner, width = weights[f"{first}.q.weight"].shape
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
        tie_word_embeddings=not gated,  # T5 1.1 took up gates and gave up the scale of a tied head
    )


def _depth(weights: dict[str, Tensor], side: str) -> int:
    return 1 + max(int(name.split(".")[2]) for name in weights if name.startswith(f"{side}.block."))


def _shared(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The embedding under each of its three names; either file may hold it."""
    names = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    table = next(weights[name] for name in names if name in weights)
    return dict.fromkeys(names, table)


def _tensor(fields: dict[int, list[Any]]) -> tuple[str, Tensor]:
    dtype = _DTYPES.get(fields[_TYPE][0])
    name = str(bytes(fields[_NAME][0]), "utf-8")
    if dtype is None:  # shapes and constants
        return name, torch.empty(0)
    if fields[_RAW]:
        values = np.frombuffer(fields[_RAW][0], dtype)
    elif fields[_FLOATS]:
        values = np.frombuffer(b"".join(map(bytes, fields[_FLOATS])), dtype)
    else:
        values = np.array(_integers(fields[_INTS]), np.uint64).astype(dtype)  # a negative one is written modulo 2^64
    return name, torch.from_numpy(values.reshape(_integers(fields[_DIMS])).copy())


def _integers(values: list[Any]) -> list[int]:
    """Of a repeated field, packed or not."""
    return [number for one in values for number in (_varints(one) if isinstance(one, memoryview) else [one])]


def _varints(packed: bytes | memoryview) -> Iterator[int]:
    at = 0
    while at < len(packed):
        value, at = _varint(packed, at)
        yield value


def _message(data: memoryview) -> dict[int, list[Any]]:
    """A protobuf message: the values of each field, in order."""
    fields: dict[int, list[Any]] = defaultdict(list)
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            number, at = _varint(data, at)
            fields[key >> 3].append(number)
        else:
            size, at = _varint(data, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
            fields[key >> 3].append(data[at : at + size])
            at += size
    return fields


def _varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """A number of 7 bits a byte, the lowest first, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at
