"""A T5 from quantised ONNX: the files are written here, field by field, as exporters write them."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

from pipeline.checkpoints.onnx_t5 import FILES, is_export, load_export
from pipeline.checkpoints.pretrained import load_pretrained
from pipeline.models.architectures import untie_head
from pipeline.runtime.errors import ModelError

SIZES = {"vocab_size": 300, "d_model": 24, "d_kv": 4, "d_ff": 40, "num_heads": 3, "num_layers": 2}
IDS = torch.tensor([[5, 200, 7, 1]])


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field(number: int, value: int | bytes | str) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def tensor(name: str, shape: tuple[int, ...], kind: int, body: bytes) -> bytes:
    return field(5, b"".join([*(field(1, one) for one in shape), field(2, kind), field(8, name), body]))


def quantised(name: str, weight: Tensor, *, signed: bool) -> tuple[bytes, Tensor]:
    """A tensor in three parts, as exporters leave them, and what it means."""
    low, zero = (-127, -3) if signed else (0, 131)
    scale = float(np.float32(weight.abs().max() / 115))
    codes = (weight / scale + zero).round().clamp(low, 255 if not signed else 127)
    kind, dtype = (3, np.int8) if signed else (2, np.uint8)
    parts = [
        tensor(f"{name}_scale", (), 1, field(4, struct.pack("<f", scale))),
        tensor(f"{name}_zero_point", (), kind, field(5, varint(zero % 2**64))),
        tensor(f"{name}_quantized", tuple(weight.shape), kind, field(9, codes.numpy().astype(dtype).tobytes())),
    ]
    return b"".join(parts), (codes - zero) * scale


def graph(model: Any, prefixes: dict[str, str]) -> bytes:
    """Tables and norms by name; matrices by number, named by the node that multiplies with them. Changes the model."""
    parts = [tensor("onnx::Gather_1", (1,), 7, field(9, struct.pack("<q", 3)))]
    for number, (name, weight) in enumerate(model.named_parameters()):
        side = next((one for one in prefixes if name.startswith(one)), None)
        if side is None:
            continue
        path = prefixes[side] + name.removeprefix(side)
        if name.endswith("norm.weight"):
            parts.append(tensor(path, tuple(weight.shape), 1, field(9, weight.detach().numpy().tobytes())))
            continue
        table = "shared" in name or "bias" in name
        written = path if table else f"onnx::MatMul_{number}"
        part, meant = quantised(written, weight if table else weight.T, signed=not table)
        weight.copy_(meant if table else meant.T)
        output = (
            f"/{path.removesuffix('.weight').replace('.', '/').replace('block/', 'block.').replace('layer/', 'layer.')}"
        )
        output = "logits" if name == "lm_head.weight" else f"{output}/MatMul_output_0"
        node = [field(1, "x"), field(1, f"{written}_quantized"), field(2, f"{output}_output_quantized")]
        parts += [part] if table else [part, field(1, b"".join([*node, field(4, "MatMulInteger")]))]
    return field(1, 8) + field(7, b"".join(parts))


@pytest.fixture(params=["gated-gelu", "relu"])
@torch.no_grad()
def export(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Any]:
    """A directory of an export, and the model that its integers mean."""
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
def test_the_model_is_what_the_integers_mean(export: tuple[Path, Any]) -> None:
    path, model = export
    assert is_export(path)
    loaded = load_export(path).eval()
    assert loaded.num_parameters() == model.num_parameters()
    assert torch.allclose(loaded(input_ids=IDS, labels=IDS).logits, model(input_ids=IDS, labels=IDS).logits, atol=1e-5)


def test_it_comes_with_its_tokenizer_and_leaves_as_an_ordinary_directory(
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
        found, expected = (one.eval()(input_ids=IDS, labels=IDS).logits for one in (again, model))
    assert torch.equal(found, expected)
    assert same.get_vocab() == tokenizer.get_vocab()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


def _of_another(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"layer_norm.weight", b"layer_form.weight", 1))


@pytest.mark.parametrize("damage", [_cut, _emptied, _of_another])
@pytest.mark.parametrize("name", FILES)
def test_files_of_another_shape_are_refused_in_one_line(
    damage: Callable[[Path], None], name: str, export: tuple[Path, Any]
) -> None:
    path, _ = export
    damage(path / name)
    with pytest.raises(ModelError, match="expected a quantised T5 in ONNX, got ") as caught:
        load_export(path)
    assert "\n" not in str(caught.value)
