"""Tiny random models of many classes: four layers of width 32, and weights so large that a wrong state shows.

`MODELS` maps a name to transformers' `model_type` and the fields that differ from `_FIELDS`. Only the fields that a
configuration has are set.
"""

from typing import Any

import torch
from transformers import CONFIG_MAPPING

from pipeline.models.architectures import auto_class

VOCAB = 64
_FIELDS: dict[str, Any] = {
    "vocab_size": VOCAB,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "initializer_range": 0.5,
    "init_std": 0.3,
    "hidden_size": 32,
    "d_model": 32,
    "n_embd": 32,
    "word_embed_proj_dim": 32,
    "num_hidden_layers": 4,
    "n_layer": 4,
    "n_layers": 4,
    "num_layers": 4,
    "num_decoder_layers": 4,
    "encoder_layers": 4,
    "decoder_layers": 4,
    "intermediate_size": 32,
    "ffn_dim": 32,
    "d_ff": 32,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "n_inner": 32,
    "num_attention_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "num_heads": 4,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "d_kv": 8,
    "max_position_embeddings": 64,
    "n_positions": 64,
    "max_seq_len": 64,
    "sliding_window": 6,
    "num_local_experts": 4,
    "num_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "moe_shared_expert_intermediate_size": 16,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "state_size": 8,
    "tie_word_embeddings": True,
}
_LINEAR = {  # gated delta networks
    "layer_types": ["linear_attention", "full_attention"] * 2,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_MAMBA = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_expand": 2,
    "mamba_chunk_size": 4,
}
_LONG = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [3.0] * 4, "rope_theta": 1e4}
_VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
_T5 = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 12, "decoder_start_token_id": 0}
_LED = {"attention_window": [4] * 4}
_PROPHETNET_HEADS = ("num_encoder_attention_heads", "num_decoder_attention_heads")
_GEMMA_TEXT = {"layer_types": ["sliding_attention", "full_attention"] * 2}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    # Full attention
    "Llama": ("llama", {}),
    "Llama,dynamic-NTK": (
        "llama",
        {"max_position_embeddings": 16, "rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}},
    ),
    "Qwen2": ("qwen2", {"use_sliding_window": True, "max_window_layers": 2}),
    "Qwen3": ("qwen3", {}),
    "Phi": ("phi", {}),
    "Phi-3": ("phi3", {}),
    "Phi-3,longrope": (
        "phi3",
        {"rope_parameters": _LONG | {"original_max_position_embeddings": 16}, "original_max_position_embeddings": 16},
    ),
    "GPT-2": ("gpt2", {}),
    "GPT-NeoX": ("gpt_neox", {}),
    "GPT-Neo": ("gpt_neo", {"attention_types": [[["global", "local"], 2]], "window_size": 6}),
    "GPT-J": ("gptj", {"rotary_dim": 4}),
    "GPT-BigCode": ("gpt_bigcode", {}),
    "CodeGen": ("codegen", {"rotary_dim": 4}),
    "OPT": ("opt", {}),
    "XGLM": ("xglm", {}),
    "BioGPT": ("biogpt", {}),
    "CTRL": ("ctrl", {"dff": 32}),
    "OpenAI-GPT": ("openai-gpt", {}),
    "StableLM": ("stablelm", {}),
    "StarCoder2": ("starcoder2", {}),
    "OLMo": ("olmo", {}),
    "OLMo-2": ("olmo2", {}),
    "Cohere": ("cohere", {"logit_scale": 0.25}),
    "Granite": ("granite", {"logits_scaling": 4.0}),
    "Nemotron": ("nemotron", {}),
    "SmolLM3": ("smollm3", {}),
    "GLM-4": ("glm4", {}),
    "MiniCPM3": ("minicpm3", {"head_dim": 8, "num_key_value_heads": 4}),
    "Persimmon": ("persimmon", {}),
    "Helium": ("helium", {}),
    "HyperCLOVA-X": ("hyperclovax", {"logits_scaling": 0.25}),
    # ALiBi
    "Falcon,ALiBi": ("falcon", {"alibi": True, "new_decoder_architecture": False}),
    "Falcon": ("falcon", {"alibi": False}),
    "BLOOM": ("bloom", {}),
    "MPT": ("mpt", {}),
    # Sliding windows, chunks, sinks
    "Mistral": ("mistral", {}),
    "Ministral": ("ministral", {}),
    "Gemma": ("gemma", {}),
    "Gemma-2": ("gemma2", {"final_logit_softcapping": 3.0}),
    "Gemma-3-text": ("gemma3_text", _GEMMA_TEXT),
    "Cohere-2": ("cohere2", {}),
    "OLMo-3": ("olmo3", {"layer_types": ["sliding_attention", "full_attention"] * 2}),
    "EXAONE-4": ("exaone4", {"layer_types": ["sliding_attention", "full_attention"] * 2}),
    "gpt-oss": ("gpt_oss", {"layer_types": ["sliding_attention", "full_attention"] * 2}),
    "Llama-4-text": ("llama4_text", {"attention_chunk_size": 6, "intermediate_size_mlp": 32}),
    # Keys and values shared between layers
    "Gemma-3n-text": (
        "gemma3n_text",
        {
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "num_kv_shared_layers": 2,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": VOCAB,
            "laurel_rank": 4,
            "altup_num_inputs": 2,
            "activation_sparsity_pattern": [0.0] * 4,
            "intermediate_size": [32] * 4,
        },
    ),
    "Gemma-4-text": (
        "gemma4_text",
        {
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "head_dim": 8,
            "global_head_dim": 8,
            "num_kv_shared_layers": 2,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": VOCAB,
        },
    ),
    # Mixtures of experts, latent attention
    "Mixtral": ("mixtral", {}),
    "Qwen2-MoE": ("qwen2_moe", {}),
    "Qwen3-MoE": ("qwen3_moe", {}),
    "OLMoE": ("olmoe", {}),
    "PhiMoE": ("phimoe", {}),
    "Granite-MoE": ("granitemoe", {"logits_scaling": 4.0}),
    "JetMoE": ("jetmoe", {"kv_channels": 8}),
    "DeepSeek-V2": ("deepseek_v2", {"head_dim": 8, "num_key_value_heads": 4}),
    "DeepSeek-V3": ("deepseek_v3", {"head_dim": 8, "num_key_value_heads": 4}),
    "GLM-4-MoE": ("glm4_moe", {}),
    "ERNIE-4.5": ("ernie4_5_moe", {}),
    # Recurrences and hybrids
    "Mamba": ("mamba", {}),
    "Mamba-2": ("mamba2", {"num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 4}),
    "Falcon-Mamba": ("falcon_mamba", {}),
    "Falcon-H1": ("falcon_h1", _MAMBA | {"mamba_d_ssm": 32, "mamba_n_heads": 4, "lm_head_multiplier": 0.5}),
    "Qwen3-Next": ("qwen3_next", _LINEAR),
    "Qwen3.5-text": ("qwen3_5_text", _LINEAR),
    "Olmo-Hybrid": ("olmo_hybrid", _LINEAR),
    "LFM2": ("lfm2", {"layer_types": ["conv", "full_attention"] * 2, "block_multiple_of": 8}),
    "Granite-4-hybrid": (
        "granitemoehybrid",
        _MAMBA | {"layer_types": ["mamba", "attention"] * 2, "num_local_experts": 0, "shared_intermediate_size": 32},
    ),
    "Bamba": ("bamba", _MAMBA | {"attn_layer_indices": [1, 3]}),
    "Jamba": (
        "jamba",
        {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8, "mamba_dt_rank": 4},
    ),
    "Zamba": ("zamba", {"layers_block_type": ["mamba", "hybrid"] * 2, "n_mamba_heads": 2, "mamba_d_state": 8}),
    "Zamba-2": (
        "zamba2",
        {
            "layers_block_type": ["mamba", "hybrid"] * 2,
            "n_mamba_heads": 8,
            "mamba_headdim": 8,
            "mamba_d_state": 8,
            "mamba_ngroups": 1,
            "chunk_size": 4,
            "num_mem_blocks": 1,
        },
    ),
    "Nemotron-H": (
        "nemotron_h",
        {
            "hybrid_override_pattern": "M*M-",
            "mamba_num_heads": 8,
            "mamba_head_dim": 8,
            "ssm_state_size": 8,
            "n_groups": 1,
            "chunk_size": 4,
        },
    ),
    "RecurrentGemma": ("recurrent_gemma", {"attention_window_size": 6, "lru_width": 32}),
    "MiniMax": ("minimax", {"block_size": 4}),
    "RWKV": ("rwkv", {"attention_hidden_size": 32, "context_length": 64}),
    "xLSTM": ("xlstm", {}),
    # Multimodal models that AutoModelForCausalLM loads
    "Gemma-3": ("gemma3", {"text": _GEMMA_TEXT, "vision": _VISION, "mm_tokens_per_image": 4}),
    "Llama-4": ("llama4", {"text": {"attention_chunk_size": 6, "intermediate_size_mlp": 32}, "vision": _VISION}),
    "Qwen3.5": ("qwen3_5", {"text": _LINEAR, "vision": _VISION | {"num_heads": 2, "depth": 1, "out_hidden_size": 32}}),
    # Encoders, which do not write from left to right
    "BERT": ("bert", {}),
    # Encoder-decoders
    "T5": ("t5", _T5),
    "mT5": ("mt5", _T5),
    "UMT5": ("umt5", _T5),
    "LongT5": (
        "longt5",
        _T5 | {"local_radius": 3, "encoder_attention_type": "transient-global", "global_block_size": 4},
    ),
    "Switch": ("switch_transformers", _T5),
    "T5Gemma": ("t5gemma", {}),
    "BART": ("bart", {}),
    "mBART": ("mbart", {}),
    "Pegasus": ("pegasus", {}),
    "PEGASUS-X": ("pegasus_x", {"block_size": 4, "num_global_tokens": 2}),
    "BigBird-Pegasus": ("bigbird_pegasus", {"block_size": 3, "num_random_blocks": 1}),
    "LED": ("led", dict.fromkeys(("max_encoder_position_embeddings", "max_decoder_position_embeddings"), 64) | _LED),
    "M2M100": ("m2m_100", {}),
    "NLLB-MoE": ("nllb-moe", {"encoder_sparse_step": 2, "decoder_sparse_step": 2}),
    "Marian": ("marian", {}),
    "MVP": ("mvp", {}),
    "PLBart": ("plbart", {}),
    "ProphetNet": ("prophetnet", dict.fromkeys(("num_encoder_layers", *_PROPHETNET_HEADS), 4)),
    "Blenderbot": ("blenderbot", {}),
    "Blenderbot-small": ("blenderbot-small", {}),
    "FSMT": ("fsmt", {"src_vocab_size": VOCAB, "tgt_vocab_size": VOCAB}),
}


def tiny_config(name: str) -> Any:
    """Return the configuration of a tiny model."""
    model_type, changes = MODELS[name]
    config_class = CONFIG_MAPPING[model_type]
    if model_type == "t5gemma":
        part = {"layer_types": ["sliding_attention", "full_attention"] * 2}
        sides = {side: _fields(config_class().decoder, part) for side in ("encoder", "decoder")}
        return config_class(**sides, vocab_size=VOCAB, initializer_range=0.5)
    default = config_class()
    if model_type == "prophetnet":  # its number of layers is the sum of both sides
        fields = _fields(default, changes)
        return config_class(**{name: value for name, value in fields.items() if name != "num_hidden_layers"})
    if "text" in changes:
        parts = dict(changes)
        text = _fields(default.text_config, parts.pop("text"))
        return config_class(text_config=text, vision_config=parts.pop("vision"), **parts)
    return config_class(**_fields(default, changes))


def tiny_model(name: str, *, seed: int = 0) -> Any:
    """Return a tiny random model in float32, in eval mode."""
    torch.manual_seed(seed)
    config = tiny_config(name)
    return auto_class(config).from_config(config).float().eval()


def _fields(default: Any, changes: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in _FIELDS.items() if _has(default, key)} | changes


def _has(config: Any, key: str) -> bool:
    prop = getattr(type(config), key, None)
    try:
        return hasattr(config, key) and not (isinstance(prop, property) and prop.fset is None)
    except Exception:  # Gemma 4 refuses to name a value that differs between its layers
        return False
