"""pipeline.pretrained: models from everywhere, students cut from them, and what cannot be had in one line."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from pipeline.errors import ModelError, ParameterError
from pipeline.lm import load_model
from pipeline.pretrained import StudentParams, keep_layers, load_pretrained, start_student

ROOT = Path(__file__).parent.parent
IDS = torch.tensor([[1, 2, 3, 4, 5, 6]])
SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "initializer_range": 0.5,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}


def llama() -> Any:
    return LlamaForCausalLM(LlamaConfig(**SIZES))


def qwen() -> Any:
    kinds = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]
    return Qwen3ForCausalLM(Qwen3Config(**SIZES, layer_types=kinds, use_sliding_window=True, sliding_window=4))


def gemma() -> Any:
    kinds = ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"]
    return Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, layer_types=kinds, sliding_window=4))


def gpt2() -> Any:
    settings = {"n_embd": 16, "n_layer": 4, "n_head": 2, "initializer_range": 0.5, "n_positions": 32}
    return GPT2LMHeadModel(GPT2Config(vocab_size=40, bos_token_id=0, eos_token_id=0, **settings))


FAMILIES: dict[str, Callable[[], Any]] = {"llama": llama, "qwen": qwen, "gemma": gemma, "gpt2": gpt2}


def layers_of(model: Any) -> Any:
    return model.base_model.h if hasattr(model.base_model, "h") else model.base_model.layers


def student(**changes: Any) -> StudentParams:
    values: dict[str, Any] = {"model": "teacher", "revision": None, "layers": None, "config": None, "lora": None}
    return StudentParams(**(values | changes))


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_pruned_model_keeps_the_chosen_layers_and_all_outside_them(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = FAMILIES[family]().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pruned = keep_layers(model, (0, 3), where="student.small.layers")
    prefix = {id(value): name for name, value in model.named_modules()}[id(layers_of(pruned))]
    assert len(layers_of(pruned)) == pruned.config.num_hidden_layers == 2
    after = pruned.state_dict()
    for kept, source in enumerate((0, 3)):
        names = [name for name in after if name.startswith(f"{prefix}.{kept}.")]
        assert names
        for name in names:
            assert torch.equal(after[name], before[name.replace(f"{prefix}.{kept}.", f"{prefix}.{source}.", 1)])
    outside = [name for name in before if not name.startswith(f"{prefix}.")]
    assert all(torch.equal(after[name], before[name]) for name in outside)

    pruned.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    logits = loaded(IDS).logits
    assert torch.equal(logits, pruned(IDS, use_cache=False).logits)
    cache = loaded(IDS[:, :5], use_cache=True).past_key_values
    stepped = loaded(IDS[:, 5:], past_key_values=cache, use_cache=True).logits
    assert torch.allclose(stepped[:, -1], logits[:, -1], atol=1e-5)


@torch.no_grad()
def test_each_kept_layer_matters() -> None:
    def logits(layers: tuple[int, ...]) -> Any:
        torch.manual_seed(0)
        return keep_layers(llama().eval(), layers, where="x")(IDS, use_cache=False).logits

    assert torch.equal(logits((0, 1, 2, 3)), logits((0, 1, 2, 3)))
    assert not torch.allclose(logits((0, 3)), logits((0, 2)), atol=1e-3)


@pytest.mark.parametrize("layers", [(), (0, 4), (-1, 2), (2, 0), (1, 1)])
def test_layers_that_the_model_lacks_or_in_another_order_are_refused(layers: tuple[int, ...]) -> None:
    with pytest.raises(ParameterError) as caught:
        keep_layers(llama(), layers, where="student.small.layers")
    assert str(caught.value) == (
        f"student.small.layers: expected ascending layer numbers from 0 to 3, got {list(layers)}; mend params.yaml"
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fresh_student_has_random_weights_of_its_seed(family: str) -> None:
    base = FAMILIES[family]()
    width = "n_inner" if family == "gpt2" else "intermediate_size"
    p = student(config={width: 24})

    def weights(seed: int) -> dict[str, Any]:
        made: dict[str, Any] = start_student(p, base, seed=seed, where="student.small").state_dict()
        return made

    one, same, other = weights(1), weights(1), weights(2)
    assert any(24 in value.shape for value in one.values())
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("family", ["llama", "qwen", "gemma"])
@torch.no_grad()
def test_a_fresh_student_may_have_fewer_layers(family: str) -> None:
    made = start_student(student(config={"num_hidden_layers": 2}), FAMILIES[family](), seed=0, where="student.small")
    assert len(layers_of(made)) == 2
    assert made(IDS).logits.isfinite().all()


@pytest.mark.parametrize("changes", [{"hidden_size": "wide"}, {"hidden_size": 15}, {"num_attention_heads": 0}])
def test_a_configuration_that_makes_no_model_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(
        ParameterError, match=r"^student\.small\.config: expected a LlamaConfig that fits together, got"
    ):
        start_student(student(config=changes), llama(), seed=0, where="student.small")


def test_an_unknown_field_of_the_configuration_is_named() -> None:
    with pytest.raises(ParameterError) as caught:
        start_student(student(config={"hiden_size": 8}), llama(), seed=0, where="student.small")
    assert str(caught.value) == (
        "student.small.config.hiden_size: expected a field of LlamaConfig, got an unknown name; remove or rename it"
    )


def test_a_student_without_changes_is_the_model_itself() -> None:
    model = llama()
    assert start_student(student(), model, seed=0, where="student.small") is model


def test_a_local_directory_gives_model_and_tokenizer(teacher_dir: Path) -> None:
    model, tokenizer = load_pretrained(str(teacher_dir), None, dtype=torch.bfloat16, where="teacher.model")
    assert model.dtype == torch.bfloat16
    assert model.config.num_hidden_layers == 4
    assert len(tokenizer) == 260


def refused(model: str) -> str:
    with pytest.raises(ModelError) as caught:
        load_pretrained(model, None, dtype=torch.float32, where="teacher.model")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "model", ["package:no_such_package/x.gguf", "package:no_such.package/x.gguf", "package:/x.gguf"]
)
def test_a_package_that_is_not_installed_says_how_to_get_it(model: str) -> None:
    module = model.removeprefix("package:").partition("/")[0]
    assert refused(model) == f"teacher.model: expected package {module}, got none installed; run `make setup`"


def test_a_missing_gguf_file_is_named_by_its_whole_path(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    assert refused(str(path)) == f"teacher.model: expected a file at {path}, got nothing; run `make setup`"
    inside = refused("package:json/absent.gguf")
    assert inside.endswith("json/absent.gguf, got nothing; run `make setup`")


def test_a_directory_without_weights_or_with_damaged_ones_is_refused(teacher_dir: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(teacher_dir, tmp_path / "model"))
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert refused(str(copied)).startswith("teacher.model: expected a hub name, a local model directory or a GGUF file")
    weights.unlink()
    assert "no file named model.safetensors" in refused(str(copied))


def test_a_gguf_file_of_rubbish_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    assert "model.gguf" in refused(str(path))


def test_a_hub_name_that_cannot_be_had_ends_the_stage_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("teacher: {model: nobody/no-such-model, revision: null, dtype: float32}\n")
    done = subprocess.run(
        [sys.executable, "-m", "stages.teacher", "--out", "work/teacher"],
        cwd=tmp_path,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    (line,) = done.stderr.strip().splitlines()
    assert done.returncode == 1
    assert line.startswith("error: teacher.model: expected a hub name, a local model directory or a GGUF file, got")
    assert "'nobody/no-such-model'" in line
    assert line.endswith("check the name, the network and HF_HUB_OFFLINE")
    assert not (tmp_path / "work" / "teacher").exists()
