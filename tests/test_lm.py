"""One face for many model families: alignment, padding, heads, and refusals. All models are tiny and random."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers
from torch import Tensor

from pipeline import lm
from pipeline.errors import DataError, ModelError

VOCAB, PADDED = 61, 64  # a head is often wider than its tokenizer
SIZES = {
    "vocab_size": PADDED,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.5,
    "pad_token_id": 0,
}
FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaConfig(**SIZES, tie_word_embeddings=False),
    "qwen2": lambda: transformers.Qwen2Config(**SIZES),
    "qwen3": lambda: transformers.Qwen3Config(**SIZES),
    "mistral": lambda: transformers.MistralConfig(**SIZES, sliding_window=4),
    "gemma2": lambda: transformers.Gemma2Config(**SIZES, final_logit_softcapping=3.0, sliding_window=4),
    "gemma3": lambda: transformers.Gemma3TextConfig(**SIZES, sliding_window=4),
    "phi": lambda: transformers.PhiConfig(**SIZES),  # a head with a bias
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=PADDED, n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.5
    ),
}
PROMPTS = [[3, 1, 4, 1, 5], [9], [2, 6, 5, 3, 5, 8, 9, 7]]
COMPLETIONS = [[7, 9, 3], [2, 3, 8, 4, 6, 2, 6, 0, 0], [0]]


@pytest.fixture(scope="module", params=list(FAMILIES))
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    made = transformers.AutoModelForCausalLM.from_config(FAMILIES[request.param]()).eval()
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if name.endswith("bias"):
                weight.normal_()
    return made


def plain(model: Any, prompt: list[int], completion: list[int]) -> Tensor:
    """Logits of the completion tokens [T, VOCAB] from one unpadded pass of the whole model."""
    logits_SV = model(input_ids=torch.tensor([prompt + completion])).logits[0]
    first = len(prompt) - 1
    taken: Tensor = logits_SV[first : first + len(completion), :VOCAB].float()
    return taken


def aligned(model: Any, prompts: list[list[int]], completions: list[list[int]]) -> Tensor:
    """The same through `lm`."""
    return lm.head_of(model, VOCAB)(lm.completion_hidden(model, prompts, completions))


@torch.inference_mode()
def test_logits_of_completion_token_t_come_from_the_token_before_it(model: Any) -> None:
    for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True):
        assert aligned(model, [prompt], [completion]) == pytest.approx(plain(model, prompt, completion), abs=1e-5)


@torch.inference_mode()
def test_padding_changes_nothing(model: Any) -> None:
    """Ragged sequences together, end to end in the given order, with tokens among them that equal the padding."""
    together = aligned(model, PROMPTS, COMPLETIONS)
    apart = torch.cat([plain(model, *pair) for pair in zip(PROMPTS, COMPLETIONS, strict=True)])
    assert together.shape == (13, VOCAB)
    assert (together - apart).abs().max() < 1e-5


@torch.inference_mode()
def test_a_prompt_is_read_once_for_all_its_completions(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it stands among the others, and with a prompt that one completion makes the same as another."""
    prompts = [PROMPTS[0], PROMPTS[2], PROMPTS[0], [*PROMPTS[0], 7], PROMPTS[2], PROMPTS[0]]
    completions = [[7, 9, 3], [1], [7, 9], [9, 3, 2], [4] * 6, [8] * 9]
    read: list[int] = []
    hook = model.base_model.register_forward_pre_hook(
        lambda _, args, given: read.append(int(given["attention_mask"][:, -given["input_ids"].shape[1] :].sum())),
        with_kwargs=True,
    )
    found = aligned(model, prompts, completions)
    hook.remove()
    expected = torch.cat([plain(model, *pair) for pair in zip(prompts, completions, strict=True)])
    assert (found - expected).abs().max() < 1e-5
    assert read == [5 + 8 + 6, 6 * 8]


@torch.inference_mode()
def test_a_prefix_stays_as_it_is(model: Any) -> None:
    prefix = lm.read(model, PROMPTS)
    first, _, again = (lm.go_on(model, prefix, rows, COMPLETIONS) for rows in ([0, 1, 2], [2, 2, 0], [0, 1, 2]))
    assert torch.equal(first, again)


def test_the_gradient_of_a_shared_prompt_is_that_of_its_copies(model: Any) -> None:
    prompts, completions = [PROMPTS[2]] * 3, COMPLETIONS
    gradients = []
    for shared in (True, False):
        model.zero_grad()
        parts = [(prompts, completions)] if shared else [([a], [b]) for a, b in zip(prompts, completions, strict=True)]
        for part in parts:
            aligned(model, *part).log_softmax(-1)[:, 5].sum().backward()  # type: ignore[no-untyped-call]
        gradients.append([one.grad.clone() for one in model.parameters() if one.grad is not None])
    for one, other in zip(*gradients, strict=True):
        assert (one - other).abs().max() <= 1e-5 * max(1.0, float(other.abs().max()))


@torch.inference_mode()
def test_only_the_past_matters(model: Any) -> None:
    changed = [[*COMPLETIONS[0][:2], 50]]
    before, after = (aligned(model, PROMPTS[:1], one) for one in (COMPLETIONS[:1], changed))
    assert (before - after).abs().max() < 1e-5
    earlier = aligned(model, PROMPTS[:1], [[50, *COMPLETIONS[0][1:]]])
    assert (before - earlier)[0].abs().max() < 1e-5
    assert (before - earlier)[1].abs().max() > 1e-3


def test_gradients_reach_body_and_head_and_not_the_padded_ids(model: Any) -> None:
    model.zero_grad()
    aligned(model, PROMPTS, COMPLETIONS).logsumexp(-1).sum().backward()  # type: ignore[no-untyped-call]
    weight = model.get_output_embeddings().weight
    assert weight.grad[:VOCAB].abs().sum() > 0
    if not model.config.tie_word_embeddings:
        assert (weight.grad[VOCAB:] == 0).all()
    body = [one for name, one in model.base_model.named_parameters() if "layers.0" in name or "h.0" in name]
    assert body
    assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in body if one.dim() > 1)


def test_families_with_a_cap_or_a_bias_are_among_those_tested() -> None:
    """So that the tests above cannot pass by leaving both out."""
    torch.manual_seed(0)
    gemma, phi = (transformers.AutoModelForCausalLM.from_config(FAMILIES[name]()) for name in ("gemma2", "phi"))
    hidden_ND = torch.randn(2, 16) * 50
    assert lm.head_of(gemma, VOCAB)(hidden_ND).abs().max() <= 3.0
    assert phi.get_output_embeddings().bias is not None


def test_head_runs_in_float32_under_autocast() -> None:
    torch.manual_seed(0)
    made = transformers.AutoModelForCausalLM.from_config(FAMILIES["llama"]())
    hidden_ND = torch.randn(5, 16)
    head = lm.head_of(made, VOCAB)
    with lm.autocast(torch.bfloat16):
        inside = head(hidden_ND)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, head(hidden_ND))


def test_autocast_is_off_for_float32() -> None:
    a = torch.randn(4, 4)
    with lm.autocast(torch.float32):
        assert (a @ a).dtype == torch.float32
    with lm.autocast(torch.bfloat16):
        assert (a @ a).dtype == torch.bfloat16


# Precision


@pytest.mark.parametrize("native", [True, False])
def test_auto_precision_follows_the_hardware(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert lm.resolve_dtype("auto") == (torch.bfloat16 if native else torch.float32)
    assert lm.resolve_dtype("bfloat16") == torch.bfloat16
    assert lm.resolve_dtype("float32") == torch.float32


# Directories


def test_load_model_gives_evaluation_mode_and_the_dtype_asked_for(teacher_dir: Path) -> None:
    full, half = lm.load_model(teacher_dir), lm.load_model(teacher_dir, dtype=torch.bfloat16)
    assert not full.training
    assert {one.dtype for one in full.parameters()} == {torch.float32}
    assert {one.dtype for one in half.parameters()} == {torch.bfloat16}


def _empty(path: Path) -> None:
    path.mkdir()


def _no_config_type(path: Path) -> None:
    path.mkdir()
    (path / "config.json").write_text("{}")


def _broken_config(path: Path) -> None:
    path.mkdir()
    (path / "config.json").write_text("{ not json")


def _unknown_type(path: Path) -> None:
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "nothing-known"}')


def _no_weights(path: Path) -> None:
    transformers.LlamaConfig(**SIZES).save_pretrained(path)


def _broken_weights(path: Path) -> None:
    _no_weights(path)
    (path / "model.safetensors").write_bytes(b"rubbish")


def _weights_cut_short(path: Path) -> None:
    transformers.AutoModelForCausalLM.from_config(FAMILIES["llama"]()).save_pretrained(path)
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _weights_of_another_size(path: Path) -> None:
    transformers.AutoModelForCausalLM.from_config(FAMILIES["llama"]()).save_pretrained(path)
    transformers.LlamaConfig(**(SIZES | {"hidden_size": 32}), tie_word_embeddings=False).save_pretrained(path)


RUBBISH = [
    _empty,
    _no_config_type,
    _broken_config,
    _unknown_type,
    _no_weights,
    _broken_weights,
    _weights_cut_short,
    _weights_of_another_size,
]


@pytest.mark.parametrize("make", [*RUBBISH, lambda path: None])
def test_a_directory_that_holds_no_model_is_told_in_one_line(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "model"
    make(path)
    with pytest.raises(ModelError, match=f"^{path}: expected a causal language model, got ") as caught:
        lm.load_model(path)
    assert "\n" not in str(caught.value)


def test_a_weight_that_is_missing_is_not_made_up(tmp_path: Path) -> None:
    transformers.AutoModelForCausalLM.from_config(FAMILIES["llama"]()).save_pretrained(tmp_path)
    weights = safetensors.torch.load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"got none for 1 of them, such as model\.layers\.1\.mlp\.up_proj"):
        lm.load_model(tmp_path)


# Limits


def test_context_is_checked_against_prompt_and_completion(teacher_dir: Path) -> None:
    limit = lm.context_length(teacher_dir)
    assert limit == 512
    lm.check_context(limit, 512, where="scoring")
    with pytest.raises(DataError, match=r"scoring: expected at most 512 tokens .* got 513; lower task.max_prompt"):
        lm.check_context(limit, 513, where="scoring")


def test_a_head_may_be_wider_than_the_tokenizer_and_not_narrower(teacher_dir: Path) -> None:
    model = lm.load_model(teacher_dir)
    lm.check_vocabulary(model, 250, where=teacher_dir)
    lm.check_vocabulary(model, 260, where=teacher_dir)
    with pytest.raises(ModelError, match="expected a head of at least 261 tokens, got 260"):
        lm.check_vocabulary(model, 261, where=teacher_dir)
