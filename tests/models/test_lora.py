"""Students that are adapters: what is saved, where the base is found, and that merged and apart say the same."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from bench.models.tiny import tiny_model
from pipeline.core.hashing import model_fingerprint
from pipeline.core.sampling import Sampling
from pipeline.models import language_model as lm
from pipeline.models import lora as adapter
from pipeline.models.tokenizer import load_tokenizer, tokenizer_fingerprint
from pipeline.rollout.hf_sampler import HFSampler
from pipeline.runtime.errors import ModelError, ParameterError
from stages.cli.main import merge
from tests.factories import lora_params, make_lora_student

VOCAB = 260
PROMPTS, COMPLETIONS = [[3, 1, 4, 1, 5], [9]], [[7, 9, 3], [2, 3, 8, 4]]


def stir(folder: Path) -> None:
    """As if it had been trained: B is zero at first."""
    torch.manual_seed(5)
    weights = load_file(folder / "adapter_model.safetensors")
    save_file(
        {name: torch.randn_like(weight) for name, weight in weights.items()}, folder / "adapter_model.safetensors"
    )


@torch.inference_mode()
def logits(model: Any) -> Tensor:
    return lm.head_of(model, VOCAB)(lm.completion_hidden(model, PROMPTS, COMPLETIONS))


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def source(request: pytest.FixtureRequest, student_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain model; GPT-2's layers are no torch.nn.Linear, and hold their weights transposed."""
    if request.param == "llama":
        return student_dir
    path = tmp_path_factory.mktemp("gpt2") / "model"
    torch.manual_seed(0)
    settings = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "initializer_range": 0.5}
    GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, **settings)).save_pretrained(path)
    load_tokenizer(student_dir).save_pretrained(path)
    return path


@pytest.fixture
def folder(source: Path, tmp_path: Path) -> Path:
    """An adapter that has been trained."""
    made = make_lora_student(tmp_path / "work" / "s", source, lora_params())
    stir(made)
    return made


def test_a_new_adapter_says_what_its_base_says(source: Path, tmp_path: Path) -> None:
    folder = make_lora_student(tmp_path / "s", source, lora_params())
    plain = logits(lm.load_model(source))
    assert torch.equal(logits(lm.load_model(folder)), plain)
    assert (logits(lm.load_model(folder, to_train=True)) - plain).abs().max() < 1e-4  # another kernel for attention


def test_merged_and_apart_say_the_same(folder: Path, source: Path) -> None:
    merged, apart = (logits(lm.load_model(folder, to_train=flag)) for flag in (False, True))
    assert (merged - apart).abs().max() < 1e-4 * merged.abs().max()
    assert (merged - logits(lm.load_model(source))).abs().max() > 1e-1


def test_only_the_adapter_is_trained_and_only_it_is_saved(folder: Path, tmp_path: Path) -> None:
    model = lm.load_model(folder, to_train=True)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if "lora_" in name}
    assert trained
    assert not model.get_output_embeddings().weight.requires_grad
    lm.save_model(model, tmp_path / "again")
    names = ["adapter_config.json", "adapter_model.safetensors"]
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == names
    for name in names:
        before, after = folder / name, tmp_path / "again" / name
        if name.endswith("json"):
            assert after.read_bytes() == before.read_bytes()
        else:
            first, second = load_file(before), load_file(after)
            assert first.keys() == second.keys()
            assert all(torch.equal(first[name], second[name]) for name in first)


def test_equal_seeds_make_equal_files(student_dir: Path, tmp_path: Path) -> None:
    first, same, other = (
        make_lora_student(tmp_path / name, student_dir, lora_params(), seed=seed)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (first / name).read_bytes() == (same / name).read_bytes()
    assert (other / name).read_bytes() != (first / name).read_bytes()
    targets = json.loads((first / "adapter_config.json").read_text(encoding="utf-8"))["target_modules"]
    assert len(targets) == 14
    assert targets == sorted(targets)  # peft keeps a set, whose order is another one in each process


# The base


def test_a_base_of_the_teachers_dtype_is_the_teachers_file(student_dir: Path, tmp_path: Path) -> None:
    """So that DVC's cache holds it once."""
    make_lora_student(tmp_path / "s", student_dir, lora_params())
    saved = [folder / "model.safetensors" for folder in (student_dir, tmp_path / "s" / "base")]
    assert saved[0].read_bytes() == saved[1].read_bytes()


def test_a_base_in_bfloat16_stays_so_in_training_and_its_adapter_does_not(source: Path, tmp_path: Path) -> None:
    folder = make_lora_student(tmp_path / "s", source, lora_params(base_dtype="bfloat16"))
    stir(folder)
    model = lm.load_model(folder, to_train=True)
    actual = {("lora_" in name, weight.dtype) for name, weight in model.named_parameters()}
    assert actual == {(False, torch.bfloat16), (True, torch.float32)}
    model.train()
    hidden_ND = lm.completion_hidden(model, PROMPTS, COMPLETIONS)
    lm.head_of(model, VOCAB)(hidden_ND).logsumexp(-1).sum().backward()  # type: ignore[no-untyped-call]
    assert all(weight.grad is not None for name, weight in model.named_parameters() if "lora_B" in name)
    assert {weight.dtype for weight in lm.load_model(folder).parameters()} == {torch.float32}


def test_students_move_together_with_their_base(folder: Path, tmp_path: Path) -> None:
    before = logits(lm.load_model(folder))
    (tmp_path / "work").rename(tmp_path / "elsewhere")
    assert torch.equal(logits(lm.load_model(tmp_path / "elsewhere" / "s" / "init" / "model")), before)


def test_an_adapter_without_its_base_says_what_to_do(folder: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone" / "model"
    shutil.copytree(folder, alone)
    with pytest.raises(ModelError, match=r"expected its base model in .*/base, got none; run `dvc checkout`"):
        lm.load_model(alone)
    assert torch.equal(logits(lm.load_model(alone, base=tmp_path / "work/s/base")), logits(lm.load_model(folder)))


def test_the_fingerprint_tells_base_and_adapter(student_dir: Path, teacher_dir: Path, tmp_path: Path) -> None:
    first, same, base, rank, dtype = (
        make_lora_student(tmp_path / str(index), source, p)
        for index, (source, p) in enumerate(
            [
                (student_dir, lora_params()),
                (student_dir, lora_params()),
                (teacher_dir, lora_params()),
                (student_dir, lora_params(r=3)),
                (student_dir, lora_params(base_dtype="bfloat16")),
            ]
        )
    )
    assert model_fingerprint(first) == model_fingerprint(same)
    names = [model_fingerprint(path) for path in (first, base, rank, dtype)]
    stir(same)
    assert len({*names, model_fingerprint(same), model_fingerprint(student_dir)}) == 6


# Damage and mistakes


def test_an_adapter_that_lacks_a_weight_is_refused(folder: Path) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    gone = min(weights)
    save_file({name: weight for name, weight in weights.items() if name != gone}, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="expected the weights of its base's adapter, got 1 missing and 0 unknown"):
        lm.load_model(folder)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_damaged_files_are_told_in_one_line(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"rubbish")
    with pytest.raises(ModelError) as caught:
        lm.load_model(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_an_adapter_of_another_shape_is_refused(folder: Path) -> None:
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    (folder / "adapter_config.json").write_text(json.dumps(config | {"r": 3}), encoding="utf-8")
    with pytest.raises(ModelError, match="expected a language model, got "):
        lm.load_model(folder)


@pytest.mark.parametrize("targets", [("nothing_of_the_kind",), ("lm_head",), ("embed_tokens",)])
def test_targets_outside_the_body_are_refused(student_dir: Path, targets: tuple[str, ...]) -> None:
    with pytest.raises(ParameterError) as caught:
        adapter.attach(lm.load_model(student_dir), lora_params(target_modules=targets), revision="", where="s.lora")
    said = f"s.lora.target_modules: expected all-linear or names of linear layers within the body, got {list(targets)}"
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("name", ["Mamba", "Mamba-2", "Falcon-Mamba", "Falcon-H1", "Nemotron-H", "Jamba"])
def test_the_adapters_of_a_mamba_do_the_same_merged_and_apart(
    name: str, tmp_path: Path, make_tokenizer: Callable[..., Any]
) -> None:
    source = tmp_path / "source"
    tiny_model(name).save_pretrained(source)
    make_tokenizer().save_pretrained(source)
    folder = make_lora_student(tmp_path / "s", source, lora_params())
    stir(folder)
    apart, merged = (lm.load_model(folder, to_train=flag) for flag in (True, False))
    linear = {
        key for key, layer in lm.load_model(source).base_model.named_modules() if isinstance(layer, torch.nn.Linear)
    }
    adapted = {key.removesuffix(".lora_A") for key, _ in apart.base_model.named_modules() if key.endswith(".lora_A")}
    unfit = ("dt_proj",) if name == "Jamba" else ("dt_proj", "out_proj")
    assert adapted == {key for key in linear if not key.endswith(unfit)}
    ids_1S = torch.tensor([[3, 1, 4, 1, 5]])
    with torch.inference_mode():
        first, other, plain = (model(ids_1S).logits for model in (apart, merged, lm.load_model(source)))
    torch.testing.assert_close(first, other, rtol=0, atol=1e-4 * float(other.abs().max()))
    assert (first - plain).abs().max() > 1e-2 * plain.abs().max()


@pytest.mark.parametrize("layer", ["out_proj", "dt_proj"])
def test_a_layer_whose_adapter_would_do_nothing_is_named(layer: str) -> None:
    targets = ("in_proj", f"mixer.{layer}")
    with pytest.raises(ParameterError) as caught:
        adapter.attach(tiny_model("Mamba"), lora_params(target_modules=targets), revision="", where="s.lora")
    assert str(caught.value) == (
        "s.lora.target_modules: expected all-linear or names of linear layers within the body, "
        f"got {list(targets)} (an adapter of {layer} does nothing in mamba); fix params.yaml"
    )


# Those who read


def test_the_merge_command_writes_what_everybody_reads(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged"
    done = CliRunner().invoke(merge, [str(folder), str(out)], catch_exceptions=False)
    assert done.output.splitlines()[-1] == str(out)
    assert not adapter.is_adapter(out)
    merged = lm.load_model(out)
    assert torch.equal(logits(merged), logits(lm.load_model(folder)))
    assert merged.get_output_embeddings().weight is merged.get_input_embeddings().weight
    fingerprints = [tokenizer_fingerprint(load_tokenizer(path)) for path in (out, folder)]
    assert fingerprints[0] == fingerprints[1]
    again = CliRunner().invoke(merge, [str(folder), str(out)])
    assert "expected no such file or directory yet" in str(again.exception)


def test_the_sampler_takes_an_adapter_for_the_model_it_makes(folder: Path, tmp_path: Path) -> None:
    CliRunner().invoke(merge, [str(folder), str(tmp_path / "merged")], catch_exceptions=False)
    sampling = Sampling(
        max_new_tokens=6, temperature=1.0, top_p=1.0, record_threshold=0.02, record_max=8, record_tail_samples=0
    )
    made = []
    for path in (folder, tmp_path / "merged", tmp_path / "work/s/base"):
        sampler = HFSampler(path, precision="float32", vocab=VOCAB, eos_ids=[257], seed=0)
        made.append(sampler.sample(PROMPTS, ["a", "b"], sampling))
    adapted, merged, base = ([(sample.token_ids, sample.support_ids) for sample in each] for each in made)
    assert adapted == merged
    assert adapted != base
    for first, other in zip(*made[:2], strict=True):
        assert first.logp == pytest.approx(other.logp, abs=1e-5)
