"""pipeline.checkpoints.pretrained: models from everywhere, students cut from them, and what cannot be had in one
line."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from pipeline.checkpoints import pretrained
from pipeline.checkpoints.pretrained import load_pretrained
from pipeline.checkpoints.pruning import keep_layers
from pipeline.checkpoints.student import StudentParams, start_student
from pipeline.models.language_model import load_model
from pipeline.models.round_trip import check_written, probe_logits
from pipeline.runtime.errors import ModelError, ParameterError

ROOT = Path(__file__).parents[2]
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


def t5(**changes: Any) -> Any:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_heads": 2, "num_layers": 4, "num_decoder_layers": 3}
    config = T5Config(vocab_size=40, decoder_start_token_id=0, relative_attention_num_buckets=4, **(sizes | changes))
    return T5ForConditionalGeneration(config)


def untied_t5() -> Any:
    made = t5(tie_word_embeddings=False)
    made.lm_head.weight = torch.nn.Parameter(torch.randn(40, 16))
    return made


def bart() -> Any:
    names = ("encoder_layers", "encoder_attention_heads", "encoder_ffn_dim", "max_position_embeddings")
    sizes = dict(zip(names, (4, 2, 32, 32), strict=True))
    sizes |= {"decoder_layers": 3, "decoder_attention_heads": 2, "decoder_ffn_dim": 32}
    return BartForConditionalGeneration(BartConfig(vocab_size=40, d_model=16, init_std=0.3, **sizes))


ENCODER_DECODERS: dict[str, Callable[[], Any]] = {"t5": t5, "untied_t5": untied_t5, "bart": bart}
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


def blocks(stack: Any) -> Any:
    return stack.block if hasattr(stack, "block") else stack.layers


@pytest.mark.parametrize("family", ENCODER_DECODERS)
@pytest.mark.parametrize(
    "layers, kept",
    [
        ((0, 2), {"encoder": (0, 2), "decoder": (0, 2)}),
        ({"encoder": (1, 3), "decoder": (2,)}, {"encoder": (1, 3), "decoder": (2,)}),
        ({"decoder": (1, 2)}, {"encoder": (0, 1, 2, 3), "decoder": (1, 2)}),
    ],
)
@torch.no_grad()
def test_encoder_and_decoder_are_pruned_apart(family: str, layers: Any, kept: Any, tmp_path: Path) -> None:
    """The same numbers as a model whose other layers add nothing, also without the layer of the relative positions."""
    torch.manual_seed(0)
    model = ENCODER_DECODERS[family]().eval()
    whole, labels = copy.deepcopy(model), torch.tensor([[7, 8, 9]])
    for side, stack in (("encoder", whole.get_encoder()), ("decoder", whole.get_decoder())):
        for place, block in enumerate(blocks(stack)):
            if place not in kept[side]:
                _bypass(block)
    pruned = keep_layers(model, layers, where="student.small.layers")
    counts = [len(blocks(stack)) for stack in (pruned.get_encoder(), pruned.get_decoder())]
    assert counts == [len(kept["encoder"]), len(kept["decoder"])]
    pruned.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    logits, expected = (model(input_ids=IDS, labels=labels).logits for model in (loaded, whole))
    assert torch.allclose(logits, expected, atol=1e-5)
    assert not torch.allclose(logits, ENCODER_DECODERS[family]().eval()(input_ids=IDS, labels=labels).logits, atol=1e-2)


def _bypass(block: Any) -> None:
    """A block that gives back what it got, and the relative positions that the blocks after it want from it."""
    old = block.forward

    def forward(states: Any, *args: Any, **kwargs: Any) -> Any:
        result = old(states, *args, **({**kwargs, "past_key_values": None}))
        return (states, *result[1:]) if isinstance(result, tuple) else states

    block.forward = forward


@pytest.mark.parametrize(
    "layers, message",
    [
        ({"encoder": (0, 4)}, r"x.encoder: expected ascending layer numbers from 0 to 3, got [0, 4]"),
        ({"decoder": (0, 3)}, r"x.decoder: expected ascending layer numbers from 0 to 2, got [0, 3]"),
        ((0, 3), r"x: expected ascending layer numbers from 0 to 2, got [0, 3]"),
        ({"body": (0,)}, r"x: expected layers of: encoder, decoder, got 'body'"),
    ],
)
def test_layers_that_an_encoder_or_a_decoder_lacks_are_refused(layers: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=f"^{re.escape(message)}; fix params.yaml$"):
        keep_layers(t5(), layers, where="x")


@pytest.mark.parametrize("family", ENCODER_DECODERS)
@pytest.mark.parametrize("tied", [None, True, False])
@torch.no_grad()
def test_a_fresh_encoder_decoder_is_tied_as_its_base_or_as_told(family: str, tied: bool | None, tmp_path: Path) -> None:
    depth = {"encoder_layers": 2} if family == "bart" else {"num_layers": 2}
    changes: dict[str, object] = depth if tied is None else {**depth, "tie_word_embeddings": tied}
    base = ENCODER_DECODERS[family]()
    made = start_student(student(config=changes), base, seed=0, where="student.small").eval()
    assert [len(blocks(stack)) for stack in (made.get_encoder(), made.get_decoder())] == [2, 3]
    expected = family != "untied_t5" if tied is None else tied
    assert (made.get_output_embeddings().weight is made.get_input_embeddings().weight) == expected
    logits = made(input_ids=IDS, labels=IDS).logits
    assert getattr(made.config, "scale_decoder_outputs", expected) == expected
    if family != "bart":  # whose embeddings are three when its head is untied
        assert made.get_encoder().embed_tokens.weight is made.get_decoder().embed_tokens.weight
        assert expected or logits.std() < 2
    made.save_pretrained(tmp_path)
    assert torch.allclose(load_model(tmp_path)(input_ids=IDS, labels=IDS).logits, logits, atol=1e-6)


@pytest.mark.parametrize("family", ENCODER_DECODERS)
@torch.no_grad()
def test_an_encoder_decoder_comes_from_a_directory(family: str, make_tokenizer: Any, tmp_path: Path) -> None:
    base = ENCODER_DECODERS[family]().eval()
    base.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    model, _ = load_pretrained(str(tmp_path), None, dtype=torch.float32, where="teacher.model")
    assert torch.equal(model.eval()(input_ids=IDS, labels=IDS).logits, base(input_ids=IDS, labels=IDS).logits)


@pytest.mark.parametrize("layers", [(), (0, 4), (-1, 2), (2, 0), (1, 1)])
def test_layers_that_the_model_lacks_or_in_another_order_are_refused(layers: tuple[int, ...]) -> None:
    with pytest.raises(ParameterError) as caught:
        keep_layers(llama(), layers, where="student.small.layers")
    assert str(caught.value) == (
        f"student.small.layers: expected ascending layer numbers from 0 to 3, got {list(layers)}; fix params.yaml"
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fresh_student_has_random_weights_of_its_seed(family: str) -> None:
    base = FAMILIES[family]()
    width = "n_inner" if family == "gpt2" else "intermediate_size"
    p = student(config={width: 24})

    def weights(seed: int) -> dict[str, Any]:
        made: dict[str, Any] = start_student(p, base, seed=seed, where="student.small").state_dict()
        return made

    first, same, other = weights(1), weights(1), weights(2)
    assert any(24 in value.shape for value in first.values())
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


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


def _other_words(config: dict[str, Any]) -> None:
    config["vocab_size"] = 300


def _fewer_layers(config: dict[str, Any]) -> None:
    config["num_hidden_layers"] = 3


def _unknown(config: dict[str, Any]) -> None:
    config["model_type"] = "unheard_of"


@pytest.mark.parametrize(
    "change, message",
    [
        (_other_words, "another shape of 1 weights, such as model.embed_tokens.weight"),
        (
            _fewer_layers,
            "values that the model has no place for, of 9 weights, such as model.layers.3.input",
        ),
        (_unknown, "take an architecture that writes text in this version of transformers"),
    ],
)
def test_weights_that_do_not_fit_their_configuration_are_refused(
    change: Callable[[dict[str, Any]], None], message: str, teacher_dir: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(teacher_dir, tmp_path / "model"))
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    change(config)
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert message in refused(str(path))


@torch.no_grad()
def test_a_head_of_its_own_is_kept_where_the_configuration_calls_it_tied(teacher_dir: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(teacher_dir, tmp_path / "model"))
    weights, head = load_file(path / "model.safetensors"), torch.randn(260, 32)
    save_file(weights | {"lm_head.weight": head}, path / "model.safetensors", metadata={"format": "pt"})
    model, _ = load_pretrained(str(path), None, dtype=torch.float32, where="teacher.model")
    assert torch.equal(model.get_output_embeddings().weight, head)
    model.save_pretrained(tmp_path / "written")
    check_written(tmp_path / "written", probe_logits(model), where="work/teacher")


def change_config(path: Path, **changes: Any) -> None:
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    (path / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")


def test_an_error_of_any_type_is_one_line(teacher_dir: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(teacher_dir, tmp_path / "model"))
    change_config(path, rope_scaling={"type": "weird", "factor": 2.0})
    assert "(KeyError: 'weird')" in refused(str(path))


def test_a_model_with_code_of_its_own_is_refused_without_a_question(
    teacher_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copytree(teacher_dir, tmp_path / "model"))
    classes = {"AutoConfig": "configuration_x.X", "AutoModelForCausalLM": "modeling_x.X"}
    change_config(path, model_type="mine", auto_map=classes)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question"))
    assert refused(str(path)).endswith("take an architecture that writes text in this version of transformers")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_pointers_of_git_lfs_are_named(name: str, teacher_dir: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(teacher_dir, tmp_path / "model"))
    (path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 1\n", encoding="utf-8")
    assert refused(str(path)).endswith(f"run `git lfs pull` there: {name} is a pointer of git-lfs")


def test_the_three_readings_of_a_gguf_file_share_one_reader(tmp_path: Path) -> None:
    path, plain = tmp_path / "model.gguf", gguf.GGUFReader
    writer = gguf.GGUFWriter(path, "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pretrained._gguf_read_once():
        assert gguf.GGUFReader(path) is gguf.GGUFReader(path)
    assert gguf.GGUFReader is plain


def test_a_gguf_file_of_rubbish_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    assert "model.gguf" in refused(str(path))


def test_a_hub_name_that_cannot_be_had_ends_the_stage_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(
        "teacher: {model: nobody/no-such-model, revision: null, dtype: float32}\n", encoding="utf-8"
    )
    done = subprocess.run(
        [sys.executable, "-m", "stages.teacher", "--out", "work/teacher"],
        cwd=tmp_path,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )
    (line,) = done.stderr.strip().splitlines()
    assert done.returncode == 1
    assert line.startswith("error: teacher.model: expected a hub name, a local model directory or a GGUF file, got")
    assert "'nobody/no-such-model'" in line
    assert line.endswith("check the name, the network and HF_HUB_OFFLINE")
    assert not (tmp_path / "work" / "teacher").exists()
