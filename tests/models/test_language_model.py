"""One face for many model families: alignment, padding, heads, and refusals. All models are tiny and random."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers
from torch import Tensor

from pipeline.models import completions, forward
from pipeline.models import language_model as lm
from pipeline.models.architectures import auto_class, untie_head
from pipeline.models.context import Context, context_of
from pipeline.runtime.errors import DataError, ModelError

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
    "cohere": lambda: transformers.CohereConfig(**SIZES, logit_scale=0.25),
    "granite": lambda: transformers.GraniteConfig(**SIZES, logits_scaling=4.0),
}
_T5 = {
    "vocab_size": PADDED,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_heads": 2,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "decoder_start_token_id": 0,
}
_BART = {
    "vocab_size": PADDED,
    "d_model": 16,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "max_position_embeddings": 32,
    "init_std": 0.3,
    "pad_token_id": 1,
    "decoder_start_token_id": 2,
}
ENCODER_DECODERS: dict[str, Callable[[], Any]] = {
    "t5": lambda: transformers.T5Config(**_T5, num_layers=2, num_decoder_layers=3),
    "t5-untied": lambda: transformers.T5Config(
        **_T5, num_layers=3, num_decoder_layers=2, feed_forward_proj="gated-gelu", tie_word_embeddings=False
    ),
    "umt5": lambda: transformers.UMT5Config(**_T5, num_layers=2),
    "bart": lambda: transformers.BartConfig(**_BART),
    "mbart": lambda: transformers.MBartConfig(**_BART, scale_embedding=True),
    "pegasus": lambda: transformers.PegasusConfig(**_BART),
    "marian": lambda: transformers.MarianConfig(**_BART),
}
FAMILIES |= ENCODER_DECODERS


def build(name: str) -> Any:
    """A random model, with biases where the family has them."""
    torch.manual_seed(0)
    config = FAMILIES[name]()
    made = auto_class(config).from_config(config).eval()
    if name == "t5-untied":
        untie_head(made)
    with torch.no_grad():
        for name, weight in [*made.named_parameters(), *made.named_buffers()]:
            if name.endswith("bias"):
                weight.normal_(std=0.3)
    return made


PROMPTS = [[3, 1, 4, 1, 5], [9], [2, 6, 5, 3, 5, 8, 9, 7]]
COMPLETIONS = [[7, 9, 3], [2, 3, 8, 4, 6, 2, 6, 0, 0], [0]]


@pytest.fixture(scope="module", params=list(FAMILIES))
def model(request: pytest.FixtureRequest) -> Any:
    return build(request.param)


def plain(model: Any, prompt: list[int], completion: list[int]) -> Tensor:
    """Logits of the completion tokens [T, VOCAB] from one unpadded pass of the whole model."""
    if model.config.is_encoder_decoder:
        shifted = [model.config.decoder_start_token_id, *completion[:-1]]
        result = model(input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([shifted]), use_cache=False)
        return result.logits[0, :, :VOCAB].float()  # type: ignore[no-any-return]
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
@pytest.mark.parametrize("name", ["gpt2", "bart"])
def test_padding_takes_no_learnt_position(name: str) -> None:
    """A prompt that fills the context beside a completion that is longer than what would be left of it."""
    made = build(name)
    limit = made.config.max_position_embeddings
    longest = limit if made.config.is_encoder_decoder else limit - 2
    prompts, completions = [[5] * longest, [9]], [[7, 9], [2, 3, 8, 4, 6, 2, 6, 0, 0]]
    apart = torch.cat([plain(made, *pair) for pair in zip(prompts, completions, strict=True)])
    for multiple in (1, 7):
        read = lm.prefill(made, prompts, multiple=multiple)
        actual = lm.head_of(made, VOCAB)(lm.forward_completions(made, read, [0, 1], completions, multiple=multiple))
        assert (actual - apart).abs().max() < 1e-5


@torch.inference_mode()
def test_a_prompt_is_read_once_for_all_its_completions(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it stands among the others, and with a prompt that one completion makes the same as another."""
    prompts = [PROMPTS[0], PROMPTS[2], PROMPTS[0], [*PROMPTS[0], 7], PROMPTS[2], PROMPTS[0]]
    completions = [[7, 9, 3], [1], [7, 9], [9, 3, 2], [4] * 6, [8] * 9]
    read: list[tuple[str, int]] = []
    both = model.config.is_encoder_decoder
    parts = {"encoder": model.get_encoder(), "decoder": model.get_decoder()} if both else {"body": model.base_model}
    hooks = [
        part.register_forward_pre_hook(
            lambda _, args, inputs, name=name: read.append(
                (name, int(inputs["attention_mask"][:, -inputs["input_ids"].shape[1] :].sum()))
            ),
            with_kwargs=True,
        )
        for name, part in parts.items()
    ]
    actual = aligned(model, prompts, completions)
    for hook in hooks:
        hook.remove()
    expected = torch.cat([plain(model, *pair) for pair in zip(prompts, completions, strict=True)])
    assert (actual - expected).abs().max() < 1e-5
    starts = [("encoder", 5 + 8 + 6), ("decoder", 3)] if both else [("body", 5 + 8 + 6)]
    assert read == [*starts, ("decoder" if both else "body", 2 + 0 + 1 + 2 + 5 + 8)]


@torch.inference_mode()
def test_a_prefix_stays_as_it_is(model: Any) -> None:
    prefix = lm.prefill(model, PROMPTS)
    first, _, again = (
        lm.forward_completions(model, prefix, rows, COMPLETIONS) for rows in ([0, 1, 2], [2, 2, 0], [0, 1, 2])
    )
    assert torch.equal(first, again)


def test_the_gradient_of_a_shared_prompt_is_that_of_its_copies(model: Any) -> None:
    prompts, completions = [PROMPTS[2]] * 3, COMPLETIONS
    gradients = []
    for shared in (True, False):
        model.zero_grad()
        parts = [(prompts, completions)] if shared else [([a], [b]) for a, b in zip(prompts, completions, strict=True)]
        for part in parts:
            aligned(model, *part).log_softmax(-1)[:, 5].sum().backward()  # type: ignore[no-untyped-call]
        gradients.append([weight.grad.clone() for weight in model.parameters() if weight.grad is not None])
    for first, other in zip(*gradients, strict=True):
        assert (first - other).abs().max() <= 1e-5 * max(1.0, float(other.abs().max()))


# Activation checkpointing


@pytest.fixture
def without_dropout(model: Any) -> Any:
    """In training mode, as checkpointing is."""
    made = copy.deepcopy(model).train()
    lm.disable_dropout(made)
    return made


@torch.inference_mode()
def test_without_dropout_training_computes_what_reading_does(model: Any) -> None:
    made = copy.deepcopy(model).train()
    first, again = (aligned(made, PROMPTS, COMPLETIONS) for _ in range(2))
    drops = made.config.model_type in {"gpt2", "t5", "umt5", "bart", "mbart", "pegasus", "marian"}
    assert torch.equal(first, again) != drops
    lm.disable_dropout(made)
    assert torch.equal(aligned(made, PROMPTS, COMPLETIONS), aligned(model, PROMPTS, COMPLETIONS))


def gradients_of(model: Any) -> tuple[dict[str, Tensor], int]:
    """Of a loss over ragged completions of shared prompts, and the bytes that wait for the backward pass.

    Weights do not count, and neither does a tensor that is there already.
    """
    model.zero_grad()
    known, kept = {weight.untyped_storage().data_ptr() for weight in [*model.parameters(), *model.buffers()]}, {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden_ND = lm.completion_hidden(model, [*PROMPTS, PROMPTS[2]], [*COMPLETIONS, [8, 8, 1, 2]])
    hidden_ND.square().sum().backward()  # type: ignore[no-untyped-call]
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}, sum(
        kept.values()
    )


def test_checkpointing_changes_memory_and_no_gradient(without_dropout: Any) -> None:
    plain, much = gradients_of(without_dropout)
    without_dropout.activation_checkpointing_enable()
    actual, little = gradients_of(without_dropout)
    assert actual.keys() == plain.keys()
    for name, gradient in plain.items():
        assert (actual[name] - gradient).abs().max() <= 1e-4 * max(1.0, float(gradient.abs().max())), name
    assert little < much / 3


def test_a_layer_is_run_again_and_the_prompts_cache_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """In training alone: who only reads goes on sharing prompts."""
    made, runs = build("llama"), []
    monkeypatch.setattr(completions, "forward_completions", lambda *_: pytest.fail("went on from a cache"))
    made.model.layers[0].mlp.register_forward_pre_hook(lambda *_: runs.append(1))
    made.train().activation_checkpointing_enable()
    lm.completion_hidden(made, PROMPTS, COMPLETIONS).sum().backward()  # type: ignore[no-untyped-call]
    assert len(runs) == 2
    with pytest.raises(pytest.fail.Exception, match="went on"):
        lm.completion_hidden(made.eval(), PROMPTS, COMPLETIONS)


@torch.inference_mode()
def test_only_the_past_matters(model: Any) -> None:
    changed = [[*COMPLETIONS[0][:2], 50]]
    before, after = (aligned(model, PROMPTS[:1], completions) for completions in (COMPLETIONS[:1], changed))
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
    first = ("layers.0.", "h.0.", "block.0.")
    body = {name: weight for name, weight in model.named_parameters() if any(part in name for part in first)}
    assert {part for part in first if any(part in name for name in body)}
    if model.config.is_encoder_decoder:
        assert {name.split("coder.")[0][-2:] for name in body} == {"en", "de"}
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in body.values() if weight.dim() > 1)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_a_tied_embedding_has_the_gradient_that_a_dense_one_has(name: str, tmp_path: Path) -> None:
    build(name).save_pretrained(tmp_path)
    sparse, dense = (lm.load_model(tmp_path, to_train=True) for _ in range(2))
    tokens_of = [module for module in sparse.modules() if isinstance(module, torch.nn.Embedding) and module.sparse]
    assert len(tokens_of) == sum(weight is sparse.get_output_embeddings().weight for weight in embedded(sparse))
    for module in dense.modules():
        if isinstance(module, torch.nn.Embedding):
            module.sparse = False
    for made in (sparse, dense):
        head = lm.head_of(made, PADDED)
        for pair in ((PROMPTS, COMPLETIONS), (PROMPTS[:1], COMPLETIONS[:1])):  # two batches of a step
            head(lm.completion_hidden(made, *pair)).logsumexp(-1).sum().backward()
    for weight, other in zip(sparse.parameters(), dense.parameters(), strict=True):
        assert (weight.grad is None) == (other.grad is None)
        if weight.grad is not None:  # Marian's and Pegasus' places are not learnt
            assert weight.grad.layout == torch.strided
            assert weight.grad == pytest.approx(other.grad, rel=1e-5, abs=1e-5)


def embedded(model: Any) -> list[Tensor]:
    return [module.weight for module in model.modules() if isinstance(module, torch.nn.Embedding)]


@pytest.mark.parametrize("name", ["llama", *ENCODER_DECODERS])
def test_every_gradient_is_that_of_a_plain_pass_with_labels(name: str) -> None:
    """The mean cross-entropy that transformers computes from labels, through encoder and decoder.

    The last label is the start token of the BART families: mBART starts the decoder with it.
    """
    made, prompt, completion = build(name), PROMPTS[2], COMPLETIONS[1][:6]
    labels = completion if made.config.is_encoder_decoder else [*[-100] * len(prompt), *completion]
    ids = prompt if made.config.is_encoder_decoder else prompt + completion
    made(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss.backward()
    expected = {name: weight.grad.clone() for name, weight in made.named_parameters() if weight.grad is not None}
    made.zero_grad()
    hidden_ND = lm.completion_hidden(made, [prompt], [completion])
    logits_NV = lm.head_of(made, PADDED)(hidden_ND)
    torch.nn.functional.cross_entropy(logits_NV, torch.tensor(completion)).backward()  # type: ignore[no-untyped-call]
    actual = {name: weight.grad for name, weight in made.named_parameters() if weight.grad is not None}
    assert set(actual) == set(expected)
    for key, gradient in expected.items():
        assert (actual[key] - gradient).abs().max() <= 1e-5 * max(1.0, float(gradient.abs().max())), key


def test_families_with_a_cap_or_a_bias_are_among_those_tested() -> None:
    """So that the tests above cannot pass by leaving both out."""
    gemma, phi, bart, t5, untied = (build(name) for name in ("gemma2", "phi", "bart", "t5", "t5-untied"))
    hidden_ND = torch.randn(2, 16) * 50
    assert lm.head_of(gemma, VOCAB)(hidden_ND).abs().max() <= 3.0
    assert phi.get_output_embeddings().bias is not None
    assert bart.final_logits_bias.abs().min() > 0
    assert (t5.get_output_embeddings().weight is t5.shared.weight) and t5.config.scale_decoder_outputs
    assert (
        untied.get_output_embeddings().weight is not untied.shared.weight
    ) and not untied.config.scale_decoder_outputs


# Writing


@torch.inference_mode()
def test_decoding_gives_the_models_own_logits_after_each_token(model: Any) -> None:
    """For prompts shared and not, with rows that leave on the way."""
    rows, written = [0, 2, 0, 1], [[7, 9, 3], [2, 3, 8], [5], [4, 4, 6]]
    decoding, live = lm.Decoding(model, PROMPTS, rows), torch.tensor([0, 1, 2, 3])
    for step in range(4):
        for place, row in enumerate(live.tolist()):
            expected = plain(model, PROMPTS[rows[row]], [*written[row][:step], 1])[-1]
            assert (decoding.logits_BV[place, :VOCAB] - expected).abs().max() < 1e-5
        going = torch.tensor([len(written[row]) > step for row in live.tolist()])
        if not going.any():
            break
        decoding.select(going)
        live = live[going]
        decoding.step(torch.tensor([written[row][step] for row in live.tolist()]))
    assert step == 3


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
    assert {weight.dtype for weight in full.parameters()} == {torch.float32}
    assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16}


def _empty(path: Path) -> None:
    path.mkdir()


def _no_config_type(path: Path) -> None:
    path.mkdir()
    (path / "config.json").write_text("{}", encoding="utf-8")


def _broken_config(path: Path) -> None:
    path.mkdir()
    (path / "config.json").write_text("{ not json", encoding="utf-8")


def _unknown_type(path: Path) -> None:
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "nothing-known"}', encoding="utf-8")


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
    with pytest.raises(ModelError, match=f"^{path}: expected a language model, got ") as caught:
        lm.load_model(path)
    assert "\n" not in str(caught.value)


def test_a_weight_that_is_missing_is_not_made_up(tmp_path: Path) -> None:
    transformers.AutoModelForCausalLM.from_config(FAMILIES["llama"]()).save_pretrained(tmp_path)
    weights = safetensors.torch.load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"got no value for 1 weights, such as model\.layers\.1\.mlp\.up_proj"):
        lm.load_model(tmp_path)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_is_the_same_after_it_was_saved(name: str, tmp_path: Path) -> None:
    """T5 has to remember whether it is tied and whether it scales."""
    made = build(name)
    made.save_pretrained(tmp_path)
    loaded = lm.load_model(tmp_path)
    assert (aligned(loaded, PROMPTS, COMPLETIONS) - aligned(made, PROMPTS, COMPLETIONS)).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_logits_that_are_something_else_than_known_are_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(name).save_pretrained(tmp_path)
    monkeypatch.setattr(forward, "head_scale", lambda config: 0.9)
    with pytest.raises(
        ModelError, match=rf"expected logits that are a linear map of the hidden state.* got others in this {name};"
    ):
        lm.load_model(tmp_path)


def test_a_decoder_without_a_start_token_is_refused(tmp_path: Path) -> None:
    made = build("t5")
    made.config.decoder_start_token_id = None
    made.generation_config.decoder_start_token_id = 3
    made.save_pretrained(tmp_path)
    assert lm.load_model(tmp_path).config.decoder_start_token_id == 3
    (tmp_path / "generation_config.json").unlink()
    with pytest.raises(ModelError, match="expected the token that a decoder starts with, got none; set decoder_start"):
        lm.load_model(tmp_path)


# Limits


def test_context_is_checked_against_prompt_and_completion(teacher_dir: Path) -> None:
    context = context_of(teacher_dir)
    assert context == Context(limit=512, separate=False)
    context.check(500, 12, where="scoring")
    with pytest.raises(DataError, match=r"scoring: expected at most 512 tokens .* got 513; lower task.max_prompt"):
        context.check(500, 13, where="scoring")


def test_encoder_and_decoder_have_a_context_each(tmp_path: Path) -> None:
    build("bart").save_pretrained(tmp_path)
    context = context_of(tmp_path)
    assert context == Context(limit=32, separate=True)
    context.check(32, 32, where="scoring")
    with pytest.raises(DataError, match=r"expected at most 32 tokens of prompt, and of completion .* got 33"):
        context.check(32, 33, where="scoring")
    with pytest.raises(DataError):
        context.check(33, 32, where="scoring")


def test_relative_positions_have_no_end(tmp_path: Path) -> None:
    build("t5").save_pretrained(tmp_path)
    context_of(tmp_path).check(1 << 20, 1 << 20, where="scoring")


def test_a_head_may_be_wider_than_the_tokenizer_and_not_narrower(teacher_dir: Path) -> None:
    model = lm.load_model(teacher_dir)
    lm.check_vocabulary(model, 250, where=teacher_dir)
    lm.check_vocabulary(model, 260, where=teacher_dir)
    with pytest.raises(ModelError, match="expected a head of at least 261 tokens, got 260"):
        lm.check_vocabulary(model, 261, where=teacher_dir)
