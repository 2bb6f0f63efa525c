"""A student that diverges: training stops at the step, keeps its checkpoint and publishes nothing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipeline.core.types import reference_rollouts
from pipeline.models import language_model as lm
from pipeline.runtime.errors import ModelError, UserError
from pipeline.runtime.resume import ROOT
from pipeline.training import round as round_module
from pipeline.training.finite import all_finite, check_start
from pipeline.training.run import TrainingData, TrainingRun
from pipeline.training.sft import cross_entropy
from tests.factories import batch_params, with_weight
from tests.training_jobs import PROMPTS, optimizer, training_run

STEPS = range(6)
BATCHES = batch_params(batch_size=6, micro_batch_size=6, student_fraction=0.0)


@pytest.fixture(scope="module")
def student(make_model_dir: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    ids = {"vocab": 40, "bos_token_id": 38, "eos_token_id": 39, "pad_token_id": 39, "initializer_range": 0.1}
    return make_model_dir(tmp_path_factory.mktemp("student") / "model", seed=2, **ids)


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run_of(student: Path, **changes: Any) -> TrainingRun:
    """Return a round of fine-tuning that saves every second step; `changes` sets parameters of the optimizer."""
    p = optimizer(**({"warmup_steps": 0, "save_steps": 2} | changes))
    return training_run(student, STEPS, optimizer=p, objective=cross_entropy(20), batches=BATCHES)


def train(run: TrainingRun) -> list[Any]:
    """Train and publish below the current directory."""
    data = TrainingData.of_references(reference_rollouts(PROMPTS), BATCHES)
    model = round_module.MODEL if run.saved_dtype is None else round_module.CONVERTED_MODEL
    outputs = {
        model: Path("out/model"),
        round_module.OPTIMIZER: Path("out/optimizer.pt"),
        round_module.LOG: Path("out/log"),
    }
    return round_module.train_round(run, data, outputs, lambda folder, rows: None)


def saved() -> list[str]:
    return sorted(path.name for path in ROOT.rglob("step-*"))


def break_step(monkeypatch: pytest.MonkeyPatch, step: int, gradient: float) -> None:
    """Put a number into one gradient of the step with this number, after the backward pass; the loss stays finite."""
    backward, seeds = torch.Tensor.backward, iter(range(1000))

    def broken(loss: torch.Tensor) -> None:
        backward(loss)
        if next(seeds) == step:
            weights = [value for value in _leaves(loss) if value.grad is not None]
            weights[0].grad.view(-1)[0] = gradient  # type: ignore[union-attr]

    monkeypatch.setattr(torch.Tensor, "backward", broken)


def _leaves(loss: torch.Tensor) -> list[torch.Tensor]:
    """Return the weights that the loss depends on."""
    nodes, leaves = [loss.grad_fn], []
    seen: set[Any] = set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.append(node.variable)
        nodes += [following for following, _ in node.next_functions]
    return leaves


def test_a_rate_that_is_too_high_stops_at_the_step_and_publishes_nothing(student: Path) -> None:
    with pytest.raises(UserError) as caught:
        train(run_of(student, learning_rate=1e37))
    message = str(caught.value)
    assert message.startswith("train s r1, step 2: expected finite loss and gradient, got loss ")
    assert ", gradient norm nan at learning rate" in message
    assert message.endswith(
        " at learning rate 1e+37 (no checkpoint of this round is kept); lower learning_rate in the optimizer of this "
        "student, which starts this round again; an unchanged run stops here again"
    )
    assert not Path("out").exists()
    assert saved() == []


@pytest.mark.parametrize("ema_decay", [None, 0.9])
@pytest.mark.parametrize("gradient", [float("nan"), float("inf")])
def test_a_gradient_that_is_none_keeps_the_last_checkpoint(
    student: Path, monkeypatch: pytest.MonkeyPatch, gradient: float, ema_decay: float | None
) -> None:
    run = run_of(student, ema_decay=ema_decay)
    with monkeypatch.context() as patch:
        break_step(patch, 4, gradient)
        with pytest.raises(
            UserError, match=r"step 5: .* got loss \d.*, gradient norm (nan|inf) .*checkpoint after step 4"
        ):
            train(run)
        assert saved() == ["step-00000004"]
        # The same run goes on after its checkpoint: step 5 is the first backward pass of this process.
        break_step(patch, 0, gradient)
        with pytest.raises(UserError, match="train s r1, step 5: expected finite loss"):
            train(run)
    (checkpoint,) = ROOT.rglob("step-*")
    assert all_finite(load_file(checkpoint / "model" / "model.safetensors").values())
    assert not Path("out").exists()

    # Without the fault it goes on and ends as a run that never had it.
    assert len(train(run)) == 6
    resumed = load_file("out/model/model.safetensors")
    monkeypatch.chdir(Path("out"))
    train(run)
    assert all(torch.equal(weight, resumed[name]) for name, weight in load_file("out/model/model.safetensors").items())


def test_a_damaged_start_is_no_fault_of_the_rate(student: Path) -> None:
    """One number of one weight, which few logits may show."""
    model, name = lm.load_model(student), "model.layers.1.mlp.up_proj.weight"
    check_start(model, run_of(student))
    dict(model.named_parameters())[name].data[3, 2] = torch.inf
    with pytest.raises(
        ModelError, match=f"model: expected finite weights, got NaN or infinity in 1 .* such as {name};"
    ):
        check_start(model, run_of(student))


def test_another_rate_starts_the_round_again(student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(student)
    with monkeypatch.context() as patch:
        break_step(patch, 4, float("nan"))
        with pytest.raises(UserError):
            train(run)
    lower = replace(run, optimizer=replace(run.optimizer, learning_rate=1e-3))
    assert [row["step"] for row in train(lower)] == [1, 2, 3, 4, 5, 6]
    assert all_finite(lm.load_model(Path("out/model")).parameters())


def test_weights_that_the_last_step_overflows_are_not_saved(student: Path) -> None:
    with pytest.raises(UserError, match="train s r1, step 1: expected finite weights and moments, got loss "):
        train(run_of(student, learning_rate=3e38, weight_decay=2.0, save_steps=1))
    assert saved() == []


def test_what_the_original_number_format_cannot_hold_is_not_published(student: Path, tmp_path: Path) -> None:
    large = with_weight(student, tmp_path / "large", "model.norm.weight", lambda weight_D: weight_D.mul_(1e5))
    run = replace(run_of(large, learning_rate=1e-6), round_id="sft", saved_dtype=torch.float16)
    with pytest.raises(UserError, match="train s sft: expected weights that float16 can hold, got larger ones"):
        train(run)
    assert not Path("out").exists()


def test_fine_tuning_names_its_own_section(student: Path) -> None:
    with pytest.raises(UserError, match=r"lower learning_rate in sft\.s\.optimizer, which starts"):
        train(replace(run_of(student, learning_rate=1e37), round_id="sft"))
