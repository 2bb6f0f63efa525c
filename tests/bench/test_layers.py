"""bench.end_to_end.layers: the divergence of a pruned model is the divergence of the student that is made of it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench.end_to_end.layers import PrunedModel
from pipeline.checkpoints.pruning import keep_layers
from pipeline.models import language_model as lm
from tests.factories import rollout

TEXTS = [([256, 5, 9, 31], [7, 7, 80]), ([256, 60], [1, 2, 3, 4, 5])]


@torch.inference_mode()
def logp(path: Path) -> torch.Tensor:
    model = lm.load_model(path)
    hidden_ND = lm.completion_hidden(model, [text[0] for text in TEXTS], [text[1] for text in TEXTS])
    return lm.head_of(model, 260)(hidden_ND).log_softmax(-1)


def test_a_pruned_model_has_the_divergence_of_the_student_made_of_it(
    make_model_dir: Callable[..., Path], tmp_path: Path
) -> None:
    teacher = make_model_dir(tmp_path / "teacher", layers=4)
    rollouts = [rollout("", completion, prompt=prompt, source="teacher") for prompt, completion in TEXTS]
    pruned = PrunedModel(teacher, rollouts, vocab=260, precision="float32")
    assert pruned.depth == 4
    assert pruned.forward_kl([0, 1, 2, 3]) == pytest.approx(0, abs=1e-6)
    for layers in ((0, 2, 3), (1,), (0, 3)):
        student = tmp_path / f"student{layers}"
        keep_layers(lm.load_model(teacher), layers, where="layers").save_pretrained(student)
        expected = (logp(teacher).exp() * (logp(teacher) - logp(student))).sum(-1).mean().item()
        assert pruned.forward_kl(list(layers)) == pytest.approx(expected, rel=1e-4)
        assert expected > 0.01


@pytest.mark.parametrize("layers", [(0, 1, 2, 3), (0, 2, 3), (1, 3)])
def test_kept_prefixes_change_no_divergence(
    make_model_dir: Callable[..., Path], tmp_path: Path, layers: tuple[int, ...]
) -> None:
    teacher = make_model_dir(tmp_path / "teacher", layers=4)
    rollouts = [rollout("", completion, prompt=prompt, source="teacher") for prompt, completion in TEXTS]
    pruned = PrunedModel(teacher, rollouts, vocab=260, precision="float32")
    expected = {layer: pruned.forward_kl([other for other in layers if other != layer]) for layer in layers}
    assert pruned.forward_kl_without(layers) == pytest.approx(expected, rel=1e-5)
    assert len(set(expected.values())) == len(layers)
