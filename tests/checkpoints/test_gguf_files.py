"""pipeline.checkpoints.gguf_files: a GGUF file is read as a whole, or refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import Gemma3TextConfig, LlamaConfig, LlamaForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from pipeline.checkpoints.gguf_files import add_rope_scaling
from pipeline.checkpoints.pretrained import load_pretrained
from pipeline.runtime.errors import ModelError

_HEADS, _THETA = 4, 500000.0
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def llama(rope: dict[str, Any], **changes: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"vocab_size": 4, "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": _HEADS, "num_key_value_heads": _HEADS, "max_position_embeddings": 131072}
    rope = {"rope_type": "default", "rope_theta": _THETA} | rope
    model = LlamaForCausalLM(LlamaConfig(**(sizes | {"rope_parameters": rope, "initializer_range": 0.3} | changes)))
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            torch.nn.init.normal_(parameter)
    return model.eval()


def write(path: Path, model: Any, fill: Callable[[gguf.GGUFWriter], object]) -> str:
    """Write a model as the converter of llama.cpp does; `fill` adds what is tried."""
    config, writer = model.config, gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(_THETA)
    writer.add_rope_dimension_count(config.hidden_size // _HEADS)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "b", "ab", "</s>"])
    writer.add_token_merges(["a b"])
    writer.add_token_types([1, 1, 1, 3])
    writer.add_eos_token_id(3)
    for name, value in model.state_dict().items():
        values, (module, kind) = value.numpy(), name.rsplit(".", 1)
        if "q_proj" in name or "k_proj" in name:  # llama.cpp rotates pairs that are side by side
            values = values.reshape(_HEADS, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
        layer, _, part = module.removeprefix("model.layers.").partition(".")
        place = f"blk.{layer}.{_NAMES[part]}" if layer.isdigit() else _NAMES[module]
        writer.add_tensor(f"{place}.{kind}", np.ascontiguousarray(values))
    fill(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


@torch.no_grad()
def check_logits(path: str, expected: Any) -> None:
    model, _ = load_pretrained(path, None, dtype=torch.float32, where="teacher.model")
    ids = torch.arange(48)[None] % 4
    torch.testing.assert_close(model.eval()(ids).logits, expected(ids).logits, rtol=0, atol=1e-5)


def refused(path: str) -> str:
    with pytest.raises(ModelError) as caught:
        load_pretrained(path, None, dtype=torch.float32, where="teacher.model")
    return str(caught.value)


def divisors(model: Any) -> NDArray[np.float32]:
    """Return the numbers by which a model's scaling divides the plain frequencies."""
    frequencies, _ = ROPE_INIT_FUNCTIONS[model.config.rope_parameters["rope_type"]](model.config, torch.device("cpu"))
    count = len(frequencies)
    return np.asarray(_THETA ** (-np.arange(count) / count) / frequencies.numpy(), dtype=np.float32)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_the_positions_of_llama_3_are_read_from_their_tensor(factor: float, tmp_path: Path) -> None:
    model = llama({"rope_type": "llama3", "factor": factor} | _LLAMA3)
    path = write(tmp_path / "m.gguf", model, lambda w: w.add_tensor("rope_freqs.weight", divisors(model)))
    check_logits(path, model)


def test_linear_scaling_and_yarn_are_read_from_the_metadata(tmp_path: Path) -> None:
    def linear(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(4.0)

    def yarn(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(4.0)
        writer.add_rope_scaling_orig_ctx_len(32768)

    model = llama({"rope_type": "linear", "factor": 4.0})
    check_logits(write(tmp_path / "linear.gguf", model, linear), model)
    model = llama({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768})
    check_logits(write(tmp_path / "yarn.gguf", model, yarn), model)


def test_a_scaling_that_no_configuration_says_is_refused(tmp_path: Path) -> None:
    others = np.linspace(1, 3, 8, dtype=np.float32)
    path = write(tmp_path / "other.gguf", llama({}), lambda w: w.add_tensor("rope_freqs.weight", others))
    assert refused(path).startswith("teacher.model: expected a GGUF file that transformers reads as a whole")
    path = write(tmp_path / "long.gguf", llama({}), lambda w: w.add_tensor("rope_factors_long.weight", others))
    assert "rope_factors_long.weight in 'long.gguf'" in refused(path)


def test_only_full_attention_is_scaled_in_gemma_3(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "gemma3")
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(8.0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    config = Gemma3TextConfig()
    before = dict(config.rope_parameters)
    add_rope_scaling(config, tmp_path / "m.gguf", where="teacher.model")
    after = config.rope_parameters
    assert after["full_attention"] == before["full_attention"] | {"rope_type": "linear", "factor": 8.0}
    assert after["sliding_attention"] == before["sliding_attention"]


def test_a_scaling_with_more_numbers_is_refused(tmp_path: Path) -> None:
    def yarn(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(4.0)
        writer.add_rope_scaling_orig_ctx_len(32768)
        writer.add_rope_scaling_attn_factors(1.5)

    assert "rope.scaling.type yarn in 'm.gguf'" in refused(write(tmp_path / "m.gguf", llama({}), yarn))


def test_biases_without_a_place_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", llama({}, attention_bias=True), lambda _: None)
    assert "8 biases in 'm.gguf' without a place, such as blk.0.attn_k.bias" in refused(path)


def test_a_file_without_scaling_is_read_as_it_is(tmp_path: Path) -> None:
    model = llama({})
    ones = np.ones(8, dtype=np.float32)
    check_logits(write(tmp_path / "m.gguf", model, lambda _: None), model)
    check_logits(write(tmp_path / "ones.gguf", model, lambda w: w.add_tensor("rope_freqs.weight", ones)), model)
