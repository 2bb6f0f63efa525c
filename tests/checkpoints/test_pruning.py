"""pipeline.checkpoints.pruning: what a configuration says of each layer is cut with the layers, or the cut is
refused."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from pipeline.checkpoints.pruning import keep_layers, layer_lists
from pipeline.checkpoints.student import StudentParams, start_student
from pipeline.models.architectures import auto_class
from pipeline.runtime.errors import ParameterError

IDS = torch.tensor([[12, 6, 5, 13, 5, 8, 9, 7, 3, 11, 22, 33, 12, 6, 5, 13]])
KINDS = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
SIZES: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
}
MAMBA = {"mamba_d_state": 8, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_chunk_size": 16}
GEMMA_3N: dict[str, Any] = {
    "head_dim": 8,
    "vocab_size_per_layer_input": 60,
    "hidden_size_per_layer_input": 8,
    "altup_num_inputs": 2,
    "laurel_rank": 4,
    "intermediate_size": [32, 40, 48, 24],
    "layer_types": KINDS,
    "activation_sparsity_pattern": [0.9, 0.0, 0.0, 0.9],
    "sliding_window": 4,
}
# Fields of a configuration, and what is left of one of them after a cut to layers 0 and 3.
CAUSAL: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "smollm3": ({}, {"no_rope_layers": [1, 0]}),
    "cohere2": ({"layer_types": KINDS, "sliding_window": 4}, {"layer_types": [KINDS[0], KINDS[3]]}),
    "gpt_oss": ({"layer_types": KINDS, "sliding_window": 4, "num_local_experts": 4, "head_dim": 8}, {}),
    "qwen2": ({"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2}, {"max_window_layers": 1}),
    "qwen3_moe": (
        EXPERTS | {"num_experts": 4, "decoder_sparse_step": 2, "mlp_only_layers": []},
        {"decoder_sparse_step": 1, "mlp_only_layers": [0]},
    ),
    "deepseek_v3": (
        EXPERTS | LATENT | {"first_k_dense_replace": 1, "n_routed_experts": 4, "n_group": 1, "topk_group": 1},
        {"first_k_dense_replace": 1},
    ),
    "llama4_text": (
        {"interleave_moe_layer_step": 2, "intermediate_size_mlp": 32, "num_local_experts": 2, "head_dim": 8},
        {"moe_layers": [1]},
    ),
    "ernie4_5_moe": (
        EXPERTS | {"moe_layer_start_index": 1, "moe_layer_end_index": 3, "moe_num_experts": 4, "moe_k": 2},
        {"moe_layer_start_index": 1, "moe_layer_end_index": 1},
    ),
    "bamba": (MAMBA | {"attn_layer_indices": [1, 3]}, {"attn_layer_indices": [1]}),
    "jamba": ({"attn_layer_period": 4, "attn_layer_offset": 3, "mamba_d_state": 8}, {"attn_layer_period": 2}),
    "lfm2": ({"full_attn_idxs": [1, 3]}, {"full_attn_idxs": [1]}),
    "gpt_neo": (
        {"num_layers": 4, "attention_types": [[["global", "local"], 2]], "window_size": 4, "num_heads": 4},
        {"attention_layers": ["global", "local"]},
    ),
    "gemma3n_text": (GEMMA_3N | {"num_kv_shared_layers": 0}, {"intermediate_size": [32, 24]}),
    "gemma4_text": (
        {
            "layer_types": KINDS,
            "sliding_window": 4,
            "per_layer_config": {1: {"head_dim": 16}, 3: {"head_dim": 16}},
            "vocab_size_per_layer_input": 60,
            "hidden_size_per_layer_input": 8,
            "head_dim": 8,
        },
        {},
    ),
    "nemotron_h": (
        {"layers_block_type": ["linear_attention", "mlp", "mlp", "full_attention"], "mamba_num_heads": 8}
        | {"mamba_head_dim": 8, "n_groups": 1, "ssm_state_size": 8, "chunk_size": 16},
        {"layers_block_type": ["linear_attention", "full_attention"]},
    ),
}


def random_model(model_type: str, **fields: Any) -> Any:
    names = transformers.CONFIG_MAPPING[model_type]
    torch.manual_seed(0)
    config = names(**({key: value for key, value in SIZES.items() if key not in fields} | fields))
    return auto_class(config).from_config(config).eval()


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    sides = {"decoder_input_ids": IDS[:, :9]} if model.config.is_encoder_decoder else {}
    values: torch.Tensor = model(input_ids=IDS, use_cache=False, **sides).logits
    return values


def read_again(model: Any, path: Path) -> Any:
    model.save_pretrained(path)
    return auto_class(model.config).from_pretrained(path).eval()


@pytest.mark.parametrize("model_type", CAUSAL)
def test_fields_of_each_layer_are_cut_with_the_layers(model_type: str, tmp_path: Path) -> None:
    fields, expected = CAUSAL[model_type]
    whole = random_model(model_type, **fields)
    cut = keep_layers(copy.deepcopy(whole), (0, 3), where="x")
    assert {name: getattr(cut.config, name) for name in expected} == expected
    again = read_again(cut, tmp_path)
    assert again.config.num_hidden_layers == 2
    assert torch.equal(logits(again), logits(cut))
    assert not torch.allclose(logits(cut), logits(whole), atol=1e-2)


@pytest.mark.parametrize("model_type", CAUSAL)
def test_all_layers_are_the_whole_model(model_type: str) -> None:
    whole = random_model(model_type, **CAUSAL[model_type][0])
    before = whole.config.to_dict()
    cut = keep_layers(copy.deepcopy(whole), (0, 1, 2, 3), where="x")
    assert torch.equal(logits(cut), logits(whole))
    # A step becomes a list of numbers; everything else stays.
    changed = {name for name, value in cut.config.to_dict().items() if before[name] != value}
    assert changed <= {"decoder_sparse_step", "mlp_only_layers", "attention_types", "max_window_layers"}


def test_blocks_of_rows_of_each_layer_are_cut() -> None:
    """Gemma 3n has one embedding for all layers; layer 3's block of it is the cut model's block 1."""
    whole = random_model("gemma3n_text", **GEMMA_3N, num_kv_shared_layers=0)
    table = whole.model.embed_tokens_per_layer.weight.detach().clone()
    cut = keep_layers(whole, (0, 3), where="x")
    assert torch.equal(cut.model.embed_tokens_per_layer.weight, torch.cat([table[:, :8], table[:, 24:]], 1))


def test_layers_that_share_keys_are_counted_again(tmp_path: Path) -> None:
    whole = random_model("gemma3n_text", **GEMMA_3N, num_kv_shared_layers=1)
    cut = keep_layers(whole, (1, 3), where="x")
    assert cut.config.num_kv_shared_layers == 1
    assert torch.equal(logits(read_again(cut, tmp_path)), logits(cut))


def nested(kind: str) -> Any:
    """A model whose layers are described below `text_config`, `decoder` or `encoder`."""
    torch.manual_seed(0)
    text = SIZES | {"head_dim": 8, "layer_types": KINDS, "sliding_window": 4}
    if kind == "gemma3":
        vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        config: Any = transformers.Gemma3Config(
            text_config=text, vision_config=vision | {"image_size": 28, "patch_size": 14}, mm_tokens_per_image=4
        )
    else:
        config = transformers.T5GemmaConfig(encoder=text, decoder=text, vocab_size=60)
    return auto_class(config).from_config(config).eval()


@pytest.mark.parametrize("kind", ["gemma3", "t5gemma"])
def test_a_nested_configuration_is_cut(kind: str, tmp_path: Path) -> None:
    cut = keep_layers(nested(kind), (0, 3), where="x")
    for config in [cut.config.text_config] if kind == "gemma3" else [cut.config.encoder, cut.config.decoder]:
        assert config.num_hidden_layers == 2
        assert config.layer_types == [KINDS[0], KINDS[3]]
    assert torch.equal(logits(read_again(cut, tmp_path)), logits(cut))


def test_encoder_and_decoder_of_a_nested_configuration_are_cut_apart(tmp_path: Path) -> None:
    cut = keep_layers(nested("t5gemma"), {"encoder": (1,), "decoder": (0, 2, 3)}, where="x")
    assert cut.config.encoder.layer_types == KINDS[1:2]
    assert cut.config.decoder.layer_types == [KINDS[0], KINDS[2], KINDS[3]]
    assert torch.equal(logits(read_again(cut, tmp_path)), logits(cut))


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    # Differential attention weighs its two maps by the number of the layer.
    "a setting that follows the number": ("diffllama", {}, "for self_attn.lambda_init of layer 3, which is 0.55"),
    # Layers 0, 3 and 6 of eight have attention; no period picks the first two of three places only.
    "a period that does not exist": (
        "jamba",
        {"num_hidden_layers": 8, "attn_layer_period": 3, "attn_layer_offset": 0, "mamba_d_state": 8},
        "another kind of layer at ",
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_cut_that_the_configuration_cannot_describe_is_refused_in_one_line(reason: str) -> None:
    model_type, fields, finding = REFUSED[reason]
    model = random_model(model_type, **fields)
    with pytest.raises(ParameterError) as caught:
        keep_layers(model, (0, 3, 4) if model_type == "jamba" else (0, 3), where="student.small.layers")
    message = str(caught.value)
    assert message.startswith("student.small.layers: expected layers that the configuration can describe")
    assert finding in message
    assert "\n" not in message


FRESH: dict[str, tuple[dict[str, Any], int, dict[str, Any]]] = {
    # Fields, the new number of layers, and what becomes of a field: the first entries, or what the class derives.
    "smollm3": ({"no_rope_layers": [0, 1, 1, 0]}, 2, {"no_rope_layers": [0, 1]}),
    "cohere2": ({"layer_types": KINDS, "sliding_window": 4}, 3, {"layer_types": KINDS[:3]}),
    "qwen2": ({"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2}, 6, {"num_hidden_layers": 6}),
    "gemma3n_text": (GEMMA_3N | {"num_kv_shared_layers": 1}, 2, {"intermediate_size": [32, 40]}),
    "bamba": (MAMBA | {"attn_layer_indices": [1, 3]}, 2, {"attn_layer_indices": [1]}),
    "deepseek_v3": (
        EXPERTS | LATENT | {"first_k_dense_replace": 1, "n_routed_experts": 4, "n_group": 1, "topk_group": 1},
        6,
        {"first_k_dense_replace": 1},
    ),
}


@pytest.mark.parametrize("model_type", FRESH)
def test_a_fresh_student_with_another_number_of_layers(model_type: str, tmp_path: Path) -> None:
    fields, count, expected = FRESH[model_type]
    base = random_model(model_type, **fields)
    params = StudentParams(model="teacher", config={"num_hidden_layers": count})
    made = start_student(params, base, seed=0, where="student.small").eval()
    assert {name: getattr(made.config, name) for name in expected} == expected
    assert len(next(iter(layer_lists(made).values()))) == count
    assert torch.equal(logits(read_again(made, tmp_path)), logits(made))
