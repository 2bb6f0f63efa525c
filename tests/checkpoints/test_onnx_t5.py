"""A T5 from quantised ONNX: the tests write the files as exporters do."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

from pipeline.checkpoints.onnx_t5 import FILES, is_export, load_export
from pipeline.checkpoints.pretrained import load_pretrained
from pipeline.models.architectures import untie_head
from pipeline.runtime.errors import ModelError

SIZES = {"vocab_size": 300, "d_model": 24, "d_kv": 4, "d_ff": 40, "num_heads": 3, "num_layers": 2}
IDS = torch.tensor([[5, 200, 7, 1]])


def quantised(name: str, weight: Tensor, *, signed: bool) -> tuple[list[TensorProto], Tensor]:
    """Return a tensor in three parts, as exporters write it, and the values that the parts stand for."""
    low, zero = (-127, -3) if signed else (0, 131)
    scale = float(np.float32(weight.abs().max() / 115))
    codes = (weight / scale + zero).round().clamp(low, 255 if not signed else 127)
    kind, dtype = (TensorProto.INT8, np.int8) if signed else (TensorProto.UINT8, np.uint8)
    parts = [
        helper.make_tensor(f"{name}_scale", TensorProto.FLOAT, (), [scale]),
        helper.make_tensor(f"{name}_zero_point", kind, (), [zero]),
        numpy_helper.from_array(codes.numpy().astype(dtype), f"{name}_quantized"),
    ]
    return parts, (codes - zero) * scale


def graph(model: Any, prefixes: dict[str, str]) -> bytes:
    """Return an ONNX file of a model, and change the model's weights to the quantised values.

    Tables and norms have names. Matrices have a number, and the node that multiplies with one bears its name.
    """
    tensors = [numpy_helper.from_array(np.array([3]), "onnx::Gather_1")]
    nodes = []
    for number, (name, weight) in enumerate(model.named_parameters()):
        side = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
        if side is None:
            continue
        path = prefixes[side] + name.removeprefix(side)
        if name.endswith("norm.weight"):
            tensors.append(numpy_helper.from_array(weight.detach().numpy(), path))
            continue
        table = "shared" in name or "bias" in name
        initializer = path if table else f"onnx::MatMul_{number}"
        parts, values = quantised(initializer, weight if table else weight.T, signed=not table)
        weight.copy_(values if table else values.T)
        tensors += parts
        module = path.removesuffix(".weight").replace(".", "/").replace("block/", "block.").replace("layer/", "layer.")
        output = "logits" if name == "lm_head.weight" else f"/{module}/MatMul_output_0"
        if not table:
            inputs = ["x", f"{initializer}_quantized"]
            nodes.append(helper.make_node("MatMulInteger", inputs, [f"{output}_output_quantized"]))
    content: bytes = helper.make_model(helper.make_graph(nodes, "t5", [], [], tensors)).SerializeToString()
    return content


@pytest.fixture(params=["gated-gelu", "relu"])
@torch.no_grad()
def export(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Any]:
    """Return the directory of an export, and the model that its integers stand for."""
    torch.manual_seed(0)
    untied = request.param == "gated-gelu"
    config = T5Config(
        **SIZES, decoder_start_token_id=0, feed_forward_proj=request.param, tie_word_embeddings=not untied
    )
    model = untie_head(T5ForConditionalGeneration(config)).eval()
    for name, prefixes in zip(
        FILES,
        [
            {"encoder.": "enc.", "shared.": "enc.embed_tokens."},
            {"decoder.": "m.decoder.", "shared.": "m.shared.", "lm_head.": "m.lm_head."},
        ],
        strict=True,
    ):
        (tmp_path / name).write_bytes(graph(model, prefixes))
    return tmp_path, model


@torch.no_grad()
def test_weights_are_the_dequantised_integers(export: tuple[Path, Any]) -> None:
    path, model = export
    assert is_export(path)
    loaded = load_export(path).eval()
    assert loaded.num_parameters() == model.num_parameters()
    assert torch.allclose(loaded(input_ids=IDS, labels=IDS).logits, model(input_ids=IDS, labels=IDS).logits, atol=1e-5)


def test_load_pretrained_reads_the_tokenizer_and_saves_an_ordinary_directory(
    export: tuple[Path, Any], t5_tokenizer: Any, tmp_path: Path
) -> None:
    path, _ = export
    t5_tokenizer.backend_tokenizer.save(str(path / "tokenizer.json"))
    model, tokenizer = load_pretrained(str(path), None, dtype=torch.float32, where="teacher.model")
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id) == (1, 0, 2)
    saved = tmp_path / "teacher"
    model.save_pretrained(saved)
    tokenizer.save_pretrained(saved)
    again, same = load_pretrained(str(saved), None, dtype=torch.float32, where="teacher.model")
    with torch.no_grad():
        actual, expected = (t5.eval()(input_ids=IDS, labels=IDS).logits for t5 in (again, model))
    assert torch.equal(actual, expected)
    assert same.get_vocab() == tokenizer.get_vocab()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


def _renamed(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"layer_norm.weight", b"layer_form.weight", 1))


@pytest.mark.parametrize("damage", [_cut, _emptied, _renamed])
@pytest.mark.parametrize("name", FILES)
def test_damaged_files_are_refused_in_one_line(
    damage: Callable[[Path], None], name: str, export: tuple[Path, Any]
) -> None:
    path, _ = export
    damage(path / name)
    with pytest.raises(ModelError, match="expected a quantised T5 in ONNX, got ") as caught:
        load_export(path)
    assert "\n" not in str(caught.value)


def test_a_missing_onnx_package_is_reported(export: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModelError, match=r"expected the package onnx, .*; run `pip install onnx`"):
        load_export(export[0])
