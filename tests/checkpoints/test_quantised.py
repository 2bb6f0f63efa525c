"""pipeline.checkpoints.quantised: FP8 and MXFP4 are dequantised to the numbers that they stand for; others are
refused."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GptOssConfig,
    GptOssForCausalLM,
    RobertaConfig,
    RobertaForCausalLM,
)

from pipeline.checkpoints.pretrained import load_pretrained
from pipeline.models.language_model import load_model
from pipeline.models.round_trip import check_written, probe_logits
from pipeline.runtime.errors import ModelError

WEIGHTS = "model.safetensors"
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [128, 128]}
FP4_VALUES = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0])


def write_quantised(path: Path, weights: dict[str, Tensor], section: dict[str, Any]) -> None:
    """Overwrite the weights of a model directory, and describe the quantisation in its configuration."""
    save_file(weights, path / WEIGHTS, metadata={"format": "pt"})
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    (path / "config.json").write_text(json.dumps(config | {"quantization_config": section}), encoding="utf-8")


def fp8(path: Path) -> dict[str, Tensor]:
    """Quantise a model directory in blocks of 128 x 128, and return the numbers that it then stands for."""
    weights, values = load_file(path / WEIGHTS), {}
    for name, weight in list(weights.items()):
        if "proj" in name:
            rows, columns = weight.shape
            whole = torch.zeros(math.ceil(rows / 128) * 128, math.ceil(columns / 128) * 128)
            whole[:rows, :columns] = weight
            blocks = whole.reshape(len(whole) // 128, 128, -1, 128)
            scale = blocks.abs().amax((1, 3)) / 448
            codes = (blocks / scale[:, None, :, None]).to(torch.float8_e4m3fn)
            exact = (codes.float() * scale[:, None, :, None]).reshape(whole.shape)
            stored = codes.reshape(whole.shape)[:rows, :columns].contiguous()
            weights |= {name: stored, f"{name}_scale_inv": scale}
            values[name] = exact[:rows, :columns]
    write_quantised(path, weights, FP8 | {"modules_to_not_convert": ["lm_head"]})
    return values


def mxfp4(path: Path) -> dict[str, Tensor]:
    """Quantise the experts of a GPT-OSS in blocks of 32, and return the numbers that they then stand for."""
    weights, values = load_file(path / WEIGHTS), {}
    for name, weight in list(weights.items()):
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            rows = weight.transpose(1, 2).reshape(len(weight), weight.shape[2], -1, 32)
            exponent = torch.ceil(torch.log2(rows.abs().amax(-1) / 6))
            scaled = rows / torch.exp2(exponent)[..., None]
            codes = (scaled[..., None] - FP4_VALUES).abs().argmin(-1).to(torch.uint8)
            del weights[name]
            weights[f"{name}_blocks"] = codes[..., 0::2] | (codes[..., 1::2] << 4)
            weights[f"{name}_scales"] = (exponent + 127).to(torch.uint8)
            exact = FP4_VALUES[codes.long()] * torch.exp2(exponent)[..., None]
            values[name] = exact.reshape(len(weight), weight.shape[2], -1).transpose(1, 2)
    write_quantised(path, weights, {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]})
    return values


def gpt_oss(path: Path, make_tokenizer: Callable[..., Any]) -> Path:
    torch.manual_seed(0)
    sizes = {"vocab_size": 260, "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 16}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2}
    tokens = {"pad_token_id": 0, "bos_token_id": 256, "eos_token_id": 257}
    GptOssForCausalLM(GptOssConfig(**sizes, **heads, **tokens, initializer_range=0.3)).save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(params=["fp8", "fp8 with smaller blocks at the ends", "mxfp4"])
def checkpoint(
    request: pytest.FixtureRequest,
    make_model_dir: Callable[..., Path],
    make_tokenizer: Callable[..., Any],
    tmp_path: Path,
) -> tuple[Path, dict[str, Tensor]]:
    """Return a quantised model directory, and the numbers that its quantised weights stand for."""
    if request.param == "mxfp4":
        path = gpt_oss(tmp_path / "model", make_tokenizer)
        return path, mxfp4(path)
    hidden, inner = (128, 256) if request.param == "fp8" else (144, 200)
    path = make_model_dir(tmp_path / "model", hidden_size=hidden, intermediate_size=inner, num_key_value_heads=4)
    return path, fp8(path)


@torch.no_grad()
def test_what_is_written_is_what_the_codes_stand_for(
    checkpoint: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    path, values = checkpoint
    model, _ = load_pretrained(str(path), None, dtype=torch.float32, where="teacher.model")
    written = tmp_path / "written"
    model.save_pretrained(written)
    stored = load_file(written / WEIGHTS)
    assert values
    for name, value in values.items():
        assert torch.allclose(model.state_dict()[name], value, rtol=1e-6, atol=0), name
        assert torch.equal(stored[name], model.state_dict()[name]), name
    assert not [name for name in stored if "scale" in name or "blocks" in name]
    assert "quantization_config" not in json.loads((written / "config.json").read_text(encoding="utf-8"))
    logits = probe_logits(model)
    check_written(written, logits, where="work/teacher")
    loaded = probe_logits(load_model(written))
    kl = (logits.softmax(-1) * (logits.log_softmax(-1) - loaded.log_softmax(-1))).sum(-1).mean()
    assert abs(float(kl)) < 1e-6


def test_one_scale_for_a_whole_matrix(make_model_dir: Callable[..., Path], tmp_path: Path) -> None:
    path = make_model_dir(tmp_path / "model")
    weights, name = load_file(path / WEIGHTS), "model.layers.0.mlp.up_proj.weight"
    scale = weights[name].abs().max() / 448
    codes = (weights[name] / scale).to(torch.float8_e4m3fn)
    weights |= {name: codes, f"{name}_scale_inv": scale, name.replace("weight", "activation_scale"): torch.ones(1)}
    write_quantised(path, weights, FP8 | {"weight_block_size": None, "activation_scheme": "static"})
    model, _ = load_pretrained(str(path), None, dtype=torch.float32, where="teacher.model")
    assert torch.equal(model.state_dict()[name], codes.float() * scale)


NAME = "model.layers.0.mlp.up_proj.weight"


def store(path: Path, change: Callable[[dict[str, Tensor]], object], kind: str = "safetensors") -> None:
    """Write the weights of a model directory anew: in one file, in shards, or as torch pickles them."""
    weights = load_file(path / WEIGHTS)
    change(weights)
    (path / WEIGHTS).unlink()
    if kind == "bin":
        torch.save(weights, path / "pytorch_model.bin")
    elif kind == "safetensors":
        save_file(weights, path / WEIGHTS, metadata={"format": "pt"})
    else:
        names = sorted(weights)
        files = {f"model-0000{index + 1}-of-00002.safetensors": names[index::2] for index in range(2)}
        for file, part in files.items():
            save_file({name: weights[name] for name in part}, path / file, metadata={"format": "pt"})
        index = {"metadata": {}, "weight_map": {name: file for file, part in files.items() for name in part}}
        (path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def hub_cache(path: Path, hub: Path) -> Path:
    """Lay a model directory out as the hub's cache has it, under the name org/codes."""
    repository = hub / "models--org--codes"
    shutil.copytree(path, repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc", encoding="utf-8")
    return hub


@pytest.fixture
def plain(teacher_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(teacher_dir, tmp_path / "model"))


@pytest.mark.parametrize("kind", ["safetensors", "shards", "bin"])
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.float8_e4m3fn])
def test_codes_that_no_configuration_describes_are_refused(plain: Path, dtype: torch.dtype, kind: str) -> None:
    store(plain, lambda weights: weights.update({NAME: (weights[NAME] * 50).to(dtype)}), kind)
    with pytest.raises(ModelError) as caught:
        load_pretrained(str(plain), None, dtype=torch.float32, where="teacher.model")
    message, name = str(caught.value), {"int8": "I8", "uint8": "U8", "int32": "I32", "float8_e4m3fn": "F8_E4M3"}
    code = str(dtype).removeprefix("torch.")
    assert message == (
        "teacher.model: expected weights that are not quantised, or in FP8, MXFP4 or GGUF, "
        f"got {code if kind == 'bin' else name[code]} numbers for 1 weights, such as {NAME}, in {str(plain)!r} with "
        "nothing instead of quantization_config; take the model that it was quantised from or a GGUF file of it"
    )


@pytest.mark.parametrize("place", ["hf_quant_config.json", "quantize_config.json", "compression_config"])
def test_a_description_elsewhere_is_named(plain: Path, place: str) -> None:
    store(plain, lambda weights: weights.update({NAME: weights[NAME].to(torch.float8_e4m3fn)}))
    described = {"quantization": {"quant_algo": "FP8"}}
    if place.endswith("json"):
        (plain / place).write_text(json.dumps(described), encoding="utf-8")
    else:
        config = json.loads((plain / "config.json").read_text(encoding="utf-8"))
        (plain / "config.json").write_text(json.dumps(config | {place: described}), encoding="utf-8")
    with pytest.raises(ModelError, match=f"F8_E4M3 numbers for 1 weights, .* with {place} instead of quantization"):
        load_pretrained(str(plain), None, dtype=torch.float32, where="teacher.model")


@pytest.mark.parametrize("kind", ["safetensors", "shards", "bin"])
def test_codes_from_the_hub_are_refused_as_well(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    store(plain, lambda weights: weights.update({NAME: weights[NAME].to(torch.int8)}), kind)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub_cache(plain, tmp_path / "hub")))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=f"numbers for 1 weights, such as {NAME}, in 'org/codes' with nothing"):
        load_pretrained("org/codes", None, dtype=torch.float32, where="teacher.model")


def test_fp8_weights_whose_scales_are_lost_are_refused(make_model_dir: Callable[..., Path], tmp_path: Path) -> None:
    path = make_model_dir(tmp_path / "model", hidden_size=128, intermediate_size=256, num_key_value_heads=4)
    fp8(path)
    store(path, lambda weights: weights.pop(f"{NAME}_scale_inv"))
    with pytest.raises(ModelError, match=f"got F8_E4M3 numbers for 1 weights, such as {NAME}, in .* without scales"):
        load_pretrained(str(path), None, dtype=torch.float32, where="teacher.model")


def test_integers_that_belong_to_a_model_are_read(make_tokenizer: Callable[..., Any], tmp_path: Path) -> None:
    """Files of GPT-2 hold causal masks, and files of BERT hold positions; neither is read."""
    sizes = {"vocab_size": 260, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    old = {"h.0.attn.bias": torch.ones(1, 1, 32, 32, dtype=torch.uint8)}
    bert = {"vocab_size": 260, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    positions = {"roberta.embeddings.position_ids": torch.arange(64)[None]}
    models: list[tuple[Any, dict[str, Tensor]]] = [
        (GPT2LMHeadModel(GPT2Config(**sizes)), old),
        (RobertaForCausalLM(RobertaConfig(**bert, intermediate_size=32, is_decoder=True)), positions),
    ]
    for index, (model, integers) in enumerate(models):
        path = tmp_path / str(index)
        model.save_pretrained(path)
        make_tokenizer().save_pretrained(path)
        store(path, lambda weights, integers=integers: weights.update(integers))  # type: ignore[misc]
        loaded, _ = load_pretrained(str(path), None, dtype=torch.float32, where="teacher.model")
        assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())


OTHERS: dict[str, dict[str, Any]] = {
    "gptq": {"quant_method": "gptq", "bits": 4},
    "awq": {"quant_method": "awq", "bits": 4},
    "bitsandbytes 4-bit": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "bitsandbytes 8-bit": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "compressed-tensors": {"quant_method": "compressed-tensors", "format": "pack-quantized"},
    "hqq": {"quant_method": "hqq"},
    "torchao": {"quant_method": "torchao", "quant_type": "int8_weight_only"},
    "eetq": {"quant_method": "eetq", "weights": "int8"},
    "aqlm": {"quant_method": "aqlm"},
    "auto-round": {"quant_method": "auto-round"},
    "nvfp4": {"quant_method": "nvfp4"},
    "modelopt": {"quant_method": "modelopt"},
    "unknown": {"bits": 4},
}


@pytest.mark.parametrize("method", OTHERS)
def test_other_quantised_models_are_refused_with_the_model_to_take(
    method: str, teacher_dir: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(teacher_dir, tmp_path / "model"))
    write_quantised(path, load_file(path / WEIGHTS), OTHERS[method])
    (path / "README.md").write_text("---\nlicense: mit\nbase_model:\n- org/whole\n---\n", encoding="utf-8")
    with pytest.raises(ModelError) as caught:
        load_pretrained(str(path), None, dtype=torch.float32, where="teacher.model")
    assert str(caught.value) == (
        "teacher.model: expected weights that are not quantised, or in FP8, MXFP4 or GGUF, "
        f"got {method} weights in {str(path)!r}; "
        "take the model that it was quantised from, org/whole, or a GGUF file of it"
    )
