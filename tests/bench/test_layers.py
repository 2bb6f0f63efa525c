"""bench.end_to_end.layers: what it says of a student is what that student will be."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench.end_to_end.layers import Cut
from pipeline.checkpoints.pruning import keep_layers
from pipeline.models import language_model as lm
from tests.factories import rollout

TEXTS = [([256, 5, 9, 31], [7, 7, 80]), ([256, 60], [1, 2, 3, 4, 5])]


@torch.inference_mode()
def logp(path: Path) -> torch.Tensor:
    model = lm.load_model(path)
    hidden_ND = lm.completion_hidden(model, [one[0] for one in TEXTS], [one[1] for one in TEXTS])
    return lm.head_of(model, 260)(hidden_ND).log_softmax(-1)


def test_a_cut_is_as_far_off_as_the_student_made_of_it(make_model_dir: Callable[..., Path], tmp_path: Path) -> None:
    teacher = make_model_dir(tmp_path / "teacher", layers=4)
    cut = Cut(
        teacher, [rollout("", completion, prompt=prompt, source="teacher") for prompt, completion in TEXTS], vocab=260
    )
    assert cut.depth == 4
    assert cut.forward_kl([0, 1, 2, 3]) == pytest.approx(0, abs=1e-6)
    for layers in ((0, 2, 3), (1,), (0, 3)):
        student = tmp_path / f"student{layers}"
        keep_layers(lm.load_model(teacher), layers, where="layers").save_pretrained(student)
        expected = (logp(teacher).exp() * (logp(teacher) - logp(student))).sum(-1).mean().item()
        assert cut.forward_kl(list(layers)) == pytest.approx(expected, rel=1e-4)
        assert expected > 0.01
