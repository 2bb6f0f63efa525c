"""A sampler whose logits are NaN says so; it writes no token from them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.rollout.hf_sampler import HFSampler
from pipeline.runtime.errors import ModelError
from tests.factories import sampling_params, with_weight

BROKEN = 77


@pytest.mark.parametrize("changes", [{}, {"temperature": 0.0}, {"temperature": 0.5, "top_p": 0.9}, {"record_max": 0}])
def test_nan_is_told_with_the_completion_and_the_token(
    make_model_dir: Callable[..., Path], tmp_path: Path, changes: dict[str, float]
) -> None:
    model = make_model_dir(tmp_path / "whole", tie_word_embeddings=False)
    name = "model.embed_tokens.weight"
    model = with_weight(model, tmp_path / "broken", name, lambda weight_VD: weight_VD[BROKEN].fill_(torch.nan))
    sampler = HFSampler(model, precision="float32", vocab=260, eos_ids=[257], seed=0)
    prompts, names = [[256, 5], [256, BROKEN, 9], [256, 6]], ["s/r1/p/0", "s/r1/q/0", "s/r1/r/0"]
    assert len(sampler.sample(prompts[:1], names[:1], sampling_params(max_new_tokens=1, **changes))) == 1
    with pytest.raises(ModelError) as caught:
        sampler.sample(prompts, names, sampling_params(**changes))
    at = f"completion token 0, after token id 9, and in 1 weights: {name}; "
    assert str(caught.value).startswith(f"sampling s/r1/q/0: expected finite logits, got NaN or infinity at {at}")
