"""pipeline.models.finite: the cause of logits that are no distribution."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.models import language_model as lm
from pipeline.models.finite import NoDistributionError, check_distributions, not_finite
from tests.factories import with_weight


@pytest.mark.parametrize("vocab", [3, 65, 49_152])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_bad_logit_is_noticed_wherever_it_is(vocab: int, value: float) -> None:
    for column in (0, vocab // 2, vocab - 1):
        logits_NV = torch.zeros(3, vocab)
        logits_NV[2, column] = value
        for softmax in (torch.softmax, torch.log_softmax):
            with pytest.raises(NoDistributionError) as caught:
                check_distributions(softmax(logits_NV, -1))
            assert caught.value.row == 2
    logits_NV = torch.full((3, vocab), -torch.inf)
    logits_NV[:, 1] = 0.0
    check_distributions(logits_NV.log_softmax(-1))


def test_a_message_names_weights_or_the_number_format(make_model_dir: Callable[..., Path], tmp_path: Path) -> None:
    path = make_model_dir(tmp_path / "whole", tie_word_embeddings=False)
    model = lm.load_model(path)
    assert str(not_finite(model, "scoring", "token 3", torch.bfloat16)) == (
        "scoring: expected finite logits, got NaN or infinity at token 3, while all weights are finite, so numbers "
        "overflow bfloat16; set precision: float32 in the section of this stage"
    )
    assert str(not_finite(model, "scoring", "token 3", torch.float32)).endswith("overflow float32; check the weights")
    name = "model.embed_tokens.weight"
    changed = with_weight(path, tmp_path / "broken", name, lambda weight_VD: weight_VD[77].fill_(torch.inf))
    broken = lm.load_model(changed)
    message = str(not_finite(broken, "scoring", "token 3", torch.bfloat16))
    assert f"got NaN or infinity at token 3, and in 1 weights: {name}; use another revision of this model" in message
