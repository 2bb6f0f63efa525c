"""pipeline.checkpoints.adapters: an adapter as a source is merged into its base, or named with its base."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from pipeline.checkpoints.pretrained import load_pretrained
from pipeline.checkpoints.provenance import source_of
from pipeline.models.language_model import load_model
from pipeline.models.round_trip import check_written, probe_logits
from pipeline.models.tokenizer import load_tokenizer
from pipeline.runtime.errors import ModelError
from tests.factories import lora_params, make_lora_student

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")  # of peft, where a test calls it
CONFIG = "adapter_config.json"


def load(path: Path) -> tuple[Any, Any]:
    return load_pretrained(str(path), None, dtype=torch.float32, where="teacher.model")


def refused(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith("teacher.model: expected ")
    assert "\n" not in message
    assert "adapter" in message
    return message


def name_base(path: Path, base: str | None, **changes: Any) -> None:
    config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    text = json.dumps(config | {"base_model_name_or_path": base} | changes)
    (path / CONFIG).write_text(text, encoding="utf-8")


@pytest.fixture
def adapter(student_dir: Path, tmp_path: Path) -> Path:
    """The directory of an adapter of rank 2 with random weights, as peft saves it, whose base is `student_dir`."""
    torch.manual_seed(3)
    config = LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    path = tmp_path / "mine" / "adapter"
    get_peft_model(load_model(student_dir), config).save_pretrained(str(path))
    name_base(path, str(student_dir))
    return path


@pytest.mark.parametrize("kind", ["absolute", "beside", "below the working directory"])
def test_an_adapter_is_merged_into_its_base(
    kind: str, adapter: Path, student_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "beside":
        name_base(adapter, os.path.relpath(student_dir, adapter))
    if kind == "below the working directory":
        monkeypatch.chdir(student_dir.parent)
        name_base(adapter, student_dir.name, revision="main")
    model, tokenizer = load(adapter)
    before, change = load_file(student_dir / "model.safetensors"), load_file(adapter / "adapter_model.safetensors")
    after = model.state_dict()
    changed = 0
    for name, weight in before.items():
        module = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{module}.lora_A.weight" in change:
            product = change[f"{module}.lora_B.weight"] @ change[f"{module}.lora_A.weight"]
            assert torch.allclose(after[name], weight + 3 * product, atol=1e-5), name  # lora_alpha / r
            changed += 1
        else:
            assert torch.equal(after[name], weight), name
    assert changed == 4
    assert after.keys() == load_model(student_dir).state_dict().keys()
    assert tokenizer.get_vocab() == load_tokenizer(student_dir).get_vocab()


VARIANTS: dict[str, dict[str, Any]] = {
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "a head of its own": {"modules_to_save": ["lm_head"]},
    "biases": {"bias": "all"},
    "ranks by module": {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"q_proj": 8}},
    "some layers": {"layers_to_transform": [0]},
    "an adapter of the embeddings": {"target_modules": ["embed_tokens", "lm_head"]},
    "embeddings of its own": {"modules_to_save": ["embed_tokens", "lm_head"]},
}


def save_variant(path: Path, base: Path, *, tokens: int = 260, **changes: Any) -> Any:
    """Save an adapter of a base with random values in every trainable weight, and return both as peft holds them."""
    model = AutoModelForCausalLM.from_pretrained(base)
    if tokens != 260:
        model.resize_token_embeddings(tokens, mean_resizing=False)
    settings = {"r": 2, "target_modules": ["q_proj", "up_proj"], "init_lora_weights": False} | changes
    adapted: Any = get_peft_model(model, LoraConfig(**settings))
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter) / 10
    adapted.save_pretrained(str(path))
    name_base(path, str(base))
    return adapted


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")  # of peft
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_are_merged_as_peft_merges_them(
    variant: str, make_model_dir: Callable[..., Path], tmp_path: Path
) -> None:
    base = make_model_dir(tmp_path / "base", tie_word_embeddings=False, attention_bias=True)
    adapted = save_variant(tmp_path / "adapter", base, **VARIANTS[variant])
    merged, _ = load(tmp_path / "adapter")
    assert torch.allclose(probe_logits(merged), probe_logits(adapted.merge_and_unload()), atol=1e-5)


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")  # of peft
@pytest.mark.filterwarnings("ignore:Model (has|with) `tie_word_embeddings=True`")  # of peft
@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_an_adapter_of_one_side_of_a_tied_embedding_leaves_the_other_as_it_is(
    target: str, make_model_dir: Callable[..., Path], tmp_path: Path
) -> None:
    base = make_model_dir(tmp_path / "base", tie_word_embeddings=True)
    adapted = save_variant(tmp_path / "adapter", base, target_modules=["q_proj", target])
    merged, _ = load(tmp_path / "adapter")
    expected = probe_logits(adapted)  # not merged: peft merges into both sides
    assert (probe_logits(merged) - expected).abs().max() < 1e-5 * expected.abs().max()
    merged.save_pretrained(tmp_path / "written")
    check_written(tmp_path / "written", expected, where="work/teacher")


def test_an_adapter_that_repeats_layers_is_refused(adapter: Path, student_dir: Path) -> None:
    name_base(adapter, str(student_dir), layer_replication=[[0, 2], [1, 2]])
    assert "repeats layers" in refused(adapter)


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")  # of peft
@pytest.mark.parametrize(
    "changes", [{"modules_to_save": ["embed_tokens", "lm_head"]}, {"target_modules": ["embed_tokens", "q_proj"]}]
)
def test_an_adapter_with_tokens_that_its_base_lacks_is_refused(
    changes: dict[str, Any], make_model_dir: Callable[..., Path], tmp_path: Path
) -> None:
    base = make_model_dir(tmp_path / "base", tie_word_embeddings=False)
    save_variant(tmp_path / "adapter", base, tokens=264, **changes)
    assert "does not fit its base" in refused(tmp_path / "adapter")


def test_the_tokenizer_of_an_adapter_goes_before_its_base_s(adapter: Path, make_tokenizer: Callable[..., Any]) -> None:
    make_tokenizer(extra="<mine>").save_pretrained(adapter)
    assert "<mine>" in load(adapter)[1].get_vocab()


def test_a_student_of_lora_of_another_run_is_a_source(student_dir: Path, tmp_path: Path) -> None:
    path = make_lora_student(tmp_path, student_dir, lora_params())
    merged, _ = load(path)
    expected = load_model(path)
    assert all(torch.allclose(merged.state_dict()[name], value) for name, value in expected.state_dict().items())


def test_a_base_that_cannot_be_had_is_named_with_the_adapter(adapter: Path) -> None:
    name_base(adapter, "nobody/no-such-base")
    message = refused(adapter)
    assert f"the base model 'nobody/no-such-base' of the adapter {str(adapter)!r}" in message
    assert "merge_and_unload" in message


def test_a_quantised_base_says_which_method(adapter: Path, make_model_dir: Callable[..., Path], tmp_path: Path) -> None:
    base = make_model_dir(tmp_path / "base")
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    section = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (base / "config.json").write_text(json.dumps(config | {"quantization_config": section}), encoding="utf-8")
    name_base(adapter, str(base))
    assert "got bitsandbytes 4-bit weights" in refused(adapter)


def test_a_base_of_another_size_is_refused(adapter: Path, make_model_dir: Callable[..., Path], tmp_path: Path) -> None:
    name_base(adapter, str(make_model_dir(tmp_path / "base", intermediate_size=48)))
    assert "that does not fit its base" in refused(adapter)


def test_damaged_or_incomplete_adapters_are_refused(adapter: Path) -> None:
    name_base(adapter, None)
    assert "got one that names no base; set base_model_name_or_path" in refused(adapter)
    name_base(adapter, "x/y", peft_type="PROMPT_TUNING")
    assert "got one of kind PROMPT_TUNING" in refused(adapter)
    name_base(adapter, "x/y", peft_type="LORA")
    (adapter / "adapter_model.safetensors").unlink()
    assert "got one without adapter_model.safetensors" in refused(adapter)
    (adapter / CONFIG).write_text("{", encoding="utf-8")
    assert f"got a damaged {CONFIG}" in refused(adapter)


def test_an_adapter_of_another_kind_as_peft_saves_it_is_refused(student_dir: Path, tmp_path: Path) -> None:
    config = IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])
    get_peft_model(load_model(student_dir), config).save_pretrained(str(tmp_path))
    assert "got one of kind IA3; merge it into its base with peft" in refused(tmp_path)


@pytest.mark.parametrize("own, expected", [("mit", "mit"), (None, "apache-2.0")])
def test_the_licence_is_the_adapter_s_or_its_base_s(
    own: str | None, expected: str, adapter: Path, make_model_dir: Callable[..., Path], tmp_path: Path
) -> None:
    base = make_model_dir(tmp_path / "base")
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n", encoding="utf-8")
    (adapter / "README.md").write_text(f"---\nlicense: {own}\n---\n" if own else "", encoding="utf-8")
    name_base(adapter, str(base))
    source = source_of(str(adapter), None, base, where="teacher.model")
    assert (source.license, source.hub) == (expected, False)
