"""pipeline.workspace.validation: the committed params.yaml is valid, and every mistake in it is reported by name."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.runtime.errors import ParameterError
from pipeline.workspace.validation import Parameters, check_params

PARAMS = Path(__file__).parents[2] / "params.yaml"
SECTIONS = [field.name for field in fields(Parameters)]


@pytest.fixture
def mistake(tmp_path: Path) -> Callable[..., str]:
    """Change one value of the committed parameters, or remove it, and return the message about it."""

    def report(where: str, *value: Any) -> str:
        path = write(tmp_path, where, *value)
        with pytest.raises(ParameterError) as caught:
            check_params(path)
        return str(caught.value)

    return report


def write(folder: Path, where: str, *value: Any, source: Path = PARAMS) -> Path:
    document = YAML(typ="safe").load(source)
    *parents, last = where.split(".")
    target = document
    for key in parents:
        target = target[key]
    if value:
        (target[last],) = value
    else:
        del target[last]
    path = folder / "params.yaml"
    YAML(typ="safe").dump(document, path)
    return path


def test_the_committed_parameters_are_valid() -> None:
    check_params(PARAMS)


def test_params_yaml_has_exactly_the_known_sections() -> None:
    assert list(YAML(typ="safe").load(PARAMS)) == SECTIONS


@pytest.mark.parametrize("name", SECTIONS)
def test_a_missing_section_is_named(mistake: Callable[..., str], name: str) -> None:
    assert mistake(name).startswith(f"{name}: expected ")
    assert mistake(name).endswith(", got nothing; add it to params.yaml")


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("trian", {}, "trian: expected one of: seed, schedule, task, teacher, students, student, sft,"),
        (
            "batches.size",
            3,
            "batches.size: expected one of: batch_size, micro_batch_size, student_fraction, corpus_weights, "
            "shuffle_window, ",
        ),
        ("optimizer.learning_rate", "3e-4", "optimizer.learning_rate: expected float, got '3e-4' (str); fix"),
        ("optimizer.learning_rate", 0.0, "optimizer.learning_rate: expected > 0, got 0.0 (float); fix"),
        ("batches.student_fraction", 1.5, "batches.student_fraction: expected >= 0 and <= 1, got 1.5 (float); fix"),
        ("schedule.total_steps", "ten", "schedule.total_steps: expected int, got 'ten' (str); fix"),
        ("rollout.sampling.record_max", 256, "rollout.sampling.record_max: expected >= 0 and <= 255, got 256"),
        ("scoring.precision", "fp8", "scoring.precision: expected one of: auto, bfloat16, float32, got 'fp8' (str)"),
        ("seed", 1.5, "seed: expected int, got 1.5 (float); fix"),
        (
            "task.name",
            "poems",
            "task.name: expected one of: arithmetic, docstrings, gsm8k, instructions, summarisation, translation, got",
        ),
        ("task.settings.max_chars", 0, "task.settings.max_chars: expected >= 1, got 0 (int); fix"),
        ("task.settings.colour", "red", "task.settings.colour: expected one of: train_packages, heldout_packages, min"),
        (
            "task.template.text",
            "Fix {code}.",
            "task.template.text: expected a text with {body}, got {code}; fix params.yaml",
        ),
        ("student.small.layers", [0, "1"], "student.small.layers[1]: expected int, got '1' (str); fix"),
        ("students", ["small", "tall"], "students: expected names out of: small, got 'tall'; add it to student"),
        ("scoring.codec", "zip", "scoring.codec: expected one of: sqrt8, topk, rskd, got 'zip'; fix"),
        ("evaluation.prompts", 65, "evaluation.prompts: expected at most task.heldout (64), got 65; lower it"),
        ("objective.divergence.name", "kl", "objective.divergence.name: expected one of: forward_kl, reverse_kl, jsd"),
    ],
)
def test_a_mistake_in_one_value_is_reported_with_its_key(
    mistake: Callable[..., str], where: str, value: Any, message: str
) -> None:
    assert mistake(where, value).startswith(message)


@pytest.mark.parametrize("where", ["optimizer.save_steps", "teacher.revision", "scoring.truncation.temperatures"])
def test_no_value_has_a_default(mistake: Callable[..., str], where: str) -> None:
    assert mistake(where).startswith(f"{where}: expected ")
    assert mistake(where).endswith(", got nothing; add it to params.yaml")


def test_a_tail_estimator_does_not_fit_every_divergence(mistake: Callable[..., str], tmp_path: Path) -> None:
    check_params(write(tmp_path, "objective.divergence.name", "forward_kl"))  # auto finds another
    assert mistake("objective.tail_estimator", "tail_samples") == (
        "objective.tail_estimator: expected tail_samples with no other divergence than forward_kl, skew_forward_kl, "
        "got tail_samples with reverse_kl; set objective.tail_estimator: auto"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"objective.tail_estimator": "residual", "rollout.sampling.temperature": 0.7},
            "rollout.sampling with objective.tail_estimator: residual: expected temperature 1 and top_p 1, at "
            "which any token "
            "can be drawn, got temperature 0.7, top_p 1.0; change it, or set objective.tail_estimator: bucket",
        ),
        (
            {"objective.tail_estimator": "sampled", "rollout.sampling.top_p": 0.9},
            "rollout.sampling with objective.tail_estimator: sampled: expected temperature 1 and top_p 1",
        ),
        (
            {"objective.divergence.name": "reverse_kl", "rollout.sampling.top_p": 0.9},
            "rollout.sampling with objective.tail_estimator: tail_mean: expected top_p 1 and a temperature above 0",
        ),
        (
            {"objective.divergence.name": "reverse_kl", "rollout.sampling.record_tail_samples": 0},
            "rollout.sampling with objective.tail_estimator: tail_mean: expected record_tail_samples of at least "
            "1, got 0; change it",
        ),
        (
            {"objective.divergence.name": "skew_forward_kl", "scoring.codec": "rskd"},
            "objective.tail_estimator with scoring.codec: rskd: expected tail_samples for forward_kl at temperature 1 "
            "only: their "
            "probabilities are estimates, got skew_forward_kl at temperature 1.0; set scoring.codec: sqrt8",
        ),
    ],
)
def test_a_biased_tail_estimator_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = PARAMS
    for where, value in changes.items():
        path = write(tmp_path, where, value, source=path)
    with pytest.raises(ParameterError) as caught:
        check_params(path)
    assert str(caught.value).startswith(message)


def test_tail_estimators_that_fit_are_accepted(tmp_path: Path) -> None:
    check_params(write(tmp_path, "objective.tail_estimator", "residual"))
    check_params(write(tmp_path, "scoring.codec", "rskd"))


def test_a_rate_that_ends_before_the_schedule_is_a_mistake(mistake: Callable[..., str], tmp_path: Path) -> None:
    document = YAML(typ="safe").load(PARAMS)
    last, steps = document["optimizer"]["decay_steps"], document["schedule"]["total_steps"]
    check_params(write(tmp_path, "schedule.total_steps", last + 1))  # at a constant rate
    check_params(write(tmp_path, "optimizer.lr_scheduler_type", "linear"))
    falling = document["optimizer"] | {"lr_scheduler_type": "linear", "decay_steps": steps - 1}
    assert mistake("optimizer", falling) == (
        f"optimizer.decay_steps: expected at least schedule.total_steps ({steps}) with linear, which ends in 0, "
        f"got {steps - 1}; raise it, which trains the earlier rounds again, or take constant_with_warmup"
    )


def test_the_temperature_of_the_loss_must_be_scored(mistake: Callable[..., str]) -> None:
    assert mistake("objective.temperature", 2.0) == (
        "objective.temperature: expected one of the scored temperatures [1.0], got 2.0; "
        "add it to scoring.truncation.temperatures, which scores again"
    )


@pytest.mark.parametrize("temperatures", [[], [2.0], [2.0, 1.0]])
def test_temperature_one_is_scored_first(mistake: Callable[..., str], temperatures: list[float]) -> None:
    message = mistake("scoring.truncation.temperatures", temperatures)
    assert message == (
        f"scoring.truncation.temperatures: expected a list that starts with 1.0, got {temperatures}; put 1.0 first"
    )


def test_a_second_temperature_may_be_scored(tmp_path: Path) -> None:
    check_params(write(tmp_path, "scoring.truncation.temperatures", [1.0, 2.0]))


@pytest.mark.parametrize("name", ["small-1", "a/b", "corpus", "teacher", "costs"])
def test_a_students_name_has_to_fit_into_paths_and_stage_names(tmp_path: Path, name: str) -> None:
    document = YAML(typ="safe").load(PARAMS)
    document["student"] = {name: document["student"]["small"]}
    document["students"] = [name]
    path = tmp_path / "params.yaml"
    YAML(typ="safe").dump(document, path)
    with pytest.raises(ParameterError) as caught:
        check_params(path)
    assert str(caught.value) == (
        "students: expected names of letters, digits and _ other than base, corpus, costs, evaluations, prompts, "
        f"students, teacher, got {name!r}; rename it"
    )


def test_batch_slots_without_a_corpus_are_refused(tmp_path: Path) -> None:
    document = YAML(typ="safe").load(PARAMS)
    document["corpus"] = {"references": 0, "generations": 0, "samples_per_prompt": 1}
    path = tmp_path / "params.yaml"
    YAML(typ="safe").dump(document, path)
    with pytest.raises(ParameterError, match=r"^batches\.student_fraction: expected 1 without a corpus"):
        check_params(path)
    document["corpus"]["references"] = None
    YAML(typ="safe").dump(document, path)
    check_params(path)
    document["corpus"]["references"] = 0
    document["batches"]["student_fraction"] = 1
    YAML(typ="safe").dump(document, path)
    check_params(path)


@pytest.mark.parametrize(("text", "message"), [("", "expected a mapping, got null"), ("a: [", "expected YAML, got ")])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ParameterError, match=message):
        check_params(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "reward: expected a function with objective.alpha 0.5, got none; name one, or set objective.alpha to 1"),
        (
            {"batches.student_fraction": 0},
            "batches.student_fraction: expected above 0 with objective.alpha 0.5",
        ),
        (
            {"rollout.samples_per_prompt": 1},
            "rollout.samples_per_prompt: expected at least 2, because a reward",
        ),
        (
            {"rollout.sampling.top_p": 0.9},
            "rollout.sampling: expected temperature 1 and top_p 1, for which",
        ),
        ({"rollout.sampling.temperature": 0.0}, "rollout.sampling: expected temperature 1 and top_p 1, for which the"),
    ],
)
def test_a_reward_needs_samples_that_can_be_compared(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    document, path = YAML(typ="safe").load(PARAMS), tmp_path / "params.yaml"
    document["objective"]["alpha"] = 0.5
    document["reward"] = {"length": 0.1} if changes else {}
    YAML(typ="safe").dump(document, path)
    if changes:
        check_params(path)
    for where, value in changes.items():
        *parents, last = where.split(".")
        target = document
        for key in parents:
            target = target[key]
        target[last] = value
    YAML(typ="safe").dump(document, path)
    with pytest.raises(ParameterError) as caught:
        check_params(path)
    assert str(caught.value).startswith(message)


def test_an_unknown_reward_function_is_reported(mistake: Callable[..., str]) -> None:
    assert mistake("reward", {"rouge": 1.0}).startswith("reward.rouge: expected one of: exact_match, rouge_l, bleu, ")


def test_fine_tuning_is_checked_like_training(mistake: Callable[..., str]) -> None:
    optimizer = YAML(typ="safe").load(PARAMS)["optimizer"] | {"lr_scheduler_type": "linear"}
    last = optimizer["decay_steps"]
    tuning = {"references": None, "steps": last + 1, "batch_size": 2, "micro_batch_size": 2, "optimizer": optimizer}
    assert mistake("sft", {"small": tuning}).startswith(
        f"sft.small.optimizer.decay_steps: expected at least sft.small.steps ({last + 1}) with linear, "
        f"which ends in 0, got {last};"
    )
    assert mistake("sft", {"tall": tuning | {"steps": 4}}).startswith("sft: expected names out of: teacher, small, got")


def test_student_rollouts_need_prompts(mistake: Callable[..., str]) -> None:
    assert mistake("rollout.prompts", 0).startswith("batches.student_fraction: expected 0 without rollouts, got 0.5;")
