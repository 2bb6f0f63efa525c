"""pipeline.checkpoints.text_models: the language model of a multimodal checkpoint, with the same logits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Llama4Config, Llama4ForConditionalGeneration

from pipeline.checkpoints.pretrained import load_pretrained
from pipeline.checkpoints.pruning import keep_layers
from pipeline.checkpoints.text_models import without_use
from pipeline.models.architectures import probe_inputs
from pipeline.models.round_trip import check_written, probe_logits

TEXT: dict[str, Any] = {
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 256,
    "eos_token_id": 257,
}
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION |= {"image_size": 28, "patch_size": 14}


def gemma3() -> Any:
    text = TEXT | {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention", "full_attention"]}
    return Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=VISION, mm_tokens_per_image=4))


def untied_gemma3() -> Any:
    whole = gemma3()
    whole.lm_head.weight = torch.nn.Parameter(torch.randn(260, 32))
    whole.config.tie_word_embeddings = False
    return whole


def llama4() -> Any:
    text = TEXT | {"num_local_experts": 2, "intermediate_size_mlp": 32, "no_rope_layers": [1, 0, 1]}
    vision = VISION | {"vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16}
    return Llama4ForConditionalGeneration(Llama4Config(text_config=text, vision_config=vision))


@pytest.mark.parametrize(
    "whole, kind",
    [
        (gemma3, transformers.Gemma3ForCausalLM),
        (untied_gemma3, transformers.Gemma3ForCausalLM),
        (llama4, transformers.Llama4ForCausalLM),
    ],
)
@torch.no_grad()
def test_a_multimodal_checkpoint_becomes_a_text_model(
    whole: Callable[[], Any], kind: type, make_tokenizer: Callable[..., Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    original, path, written = whole().eval(), tmp_path / "whole", tmp_path / "written"
    original.save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    model, _ = load_pretrained(str(path), None, dtype=torch.float32, where="teacher.model")
    assert type(model) is kind
    expected = original(**probe_inputs(original)).logits
    assert torch.allclose(probe_logits(model), expected, atol=1e-5)
    assert model.num_parameters() < original.num_parameters()
    model.save_pretrained(written)
    check_written(written, expected, where="work/teacher")
    cut = keep_layers(model, (0, 2), where="student.small.layers")
    cut.save_pretrained(tmp_path / "cut")
    check_written(tmp_path / "cut", probe_logits(cut), where="student.small")


def test_weights_without_use_are_those_that_the_configuration_declares() -> None:
    further = {"model.layers.3.mlp.up_proj.weight", "model.layers.2.mlp.up_proj.weight", "model.layers.4.norm.weight"}
    sizes: dict[str, Any] = {"num_hidden_layers": 3}
    plain, with_further = (transformers.DeepseekV3Config(**sizes, num_nextn_predict_layers=n) for n in (0, 1))
    assert without_use(plain, further | {"vision_tower.weight"}) == set()
    assert without_use(with_further, further) == {"model.layers.3.mlp.up_proj.weight"}
    towers = {"model.vision_tower.a.weight", "multi_modal_projector.b.weight"}
    assert without_use(gemma3().config, towers | {"model.language_model.c.weight"}) == towers
