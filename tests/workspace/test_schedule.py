"""pipeline.workspace.schedule: two knobs to rounds, and rounds.yaml held against them."""

from pathlib import Path

import pytest

from pipeline.rollout.collect import turn_of
from pipeline.runtime.config import lookup, section
from pipeline.runtime.errors import ParameterError
from pipeline.runtime.layout import round_list
from pipeline.runtime.yaml_files import read_yaml
from pipeline.workspace.schedule import ScheduleParams, check_rounds, rounds_document, write_rounds

ROOT = Path(__file__).parents[2]


STUDENTS = ["small", "large"]

NONE = "work/plan.json"


def schedule(total: int, every: int) -> ScheduleParams:
    return ScheduleParams(total_steps=total, refresh_every=every, max_staleness=None)


def test_rounds_follow_each_other_and_the_last_may_be_short() -> None:
    document = rounds_document(schedule(5, 2), ["small"], [])
    assert document["rounds"] == {
        "small-r1": {"student": "small", "round": "r1", "prev": "init", "first_step": 0, "steps": 2, "gate": NONE},
        "small-r2": {"student": "small", "round": "r2", "prev": "r1", "first_step": 2, "steps": 2, "gate": NONE},
        "small-r3": {"student": "small", "round": "r3", "prev": "r2", "first_step": 4, "steps": 1, "gate": NONE},
    }
    assert document["scores"] == {
        "corpus": "work/corpus",
        "small-r1": "work/small/r1",
        "small-r2": "work/small/r2",
        "small-r3": "work/small/r3",
    }
    compared = {"base": "work/small/base", "teacher": "work/evaluations/prompts/teacher.parquet"}
    trained = compared | {"before": "work/evaluations/prompts/small-init.parquet"}
    assert document["checkpoints"] == {
        "teacher": {"model": "work/teacher", "base": NONE, "teacher": NONE, "before": NONE},
        "small-init": {"model": "work/small/init/model", **compared, "before": NONE},
        "small-r1": {"model": "work/small/r1/model", **trained},
        "small-r2": {"model": "work/small/r2/model", **trained},
        "small-r3": {"model": "work/small/r3/model", **trained},
    }
    assert (document["teacher_dir"], document["starts"], document["tuned"]) == ("work/teacher", {"small": "init"}, {})
    assert [*rounds_document(schedule(2, 2), STUDENTS, [])["rounds"]] == ["small-r1", "large-r1"]


def test_a_round_waits_for_the_verdict_on_the_round_before_where_the_schedule_may_end() -> None:
    plain, gated = (rounds_document(schedule(5, 2), ["small"], [], stop) for stop in (False, True))
    gates = [NONE, "work/evaluations/verdicts/small-r1.json", "work/evaluations/verdicts/small-r2.json"]
    assert [round_["gate"] for round_ in gated["rounds"].values()] == gates
    assert gated | {"rounds": None} == plain | {"rounds": None}


def test_no_key_of_rounds_yaml_is_a_section_of_params_yaml() -> None:
    """DVC refuses a pipeline that defines a variable twice."""
    sections = read_yaml(Path(__file__).parents[2] / "params.yaml")
    assert not rounds_document(schedule(5, 2), STUDENTS, []).keys() & sections.keys()


def test_rounds_are_counted_from_nothing() -> None:
    assert [turn_of(round_["id"]) for round_ in round_list(rounds_document(schedule(29, 2), ["s"], []))] == [*range(15)]


@pytest.mark.parametrize(("total", "every", "rounds"), [(4, 2, 2), (4, 4, 1), (4, 9, 1), (1, 1, 1), (64, 16, 4)])
def test_the_steps_add_up(total: int, every: int, rounds: int) -> None:
    steps = [round_["steps"] for round_ in round_list(rounds_document(schedule(total, every), STUDENTS, []))]
    assert len(steps) == rounds
    assert sum(steps) == total
    assert max(steps) <= every


def test_more_steps_leave_the_earlier_rounds_as_they_are() -> None:
    assert round_list(rounds_document(schedule(6, 2), STUDENTS, []))[:2] == round_list(
        rounds_document(schedule(4, 2), STUDENTS, [])
    )


def test_what_was_written_is_accepted_until_the_schedule_changes(tmp_path: Path) -> None:
    path = tmp_path / "rounds.yaml"
    write_rounds(path, schedule(4, 2), STUDENTS, [])
    assert read_yaml(path) == rounds_document(schedule(4, 2), STUDENTS, [])
    check_rounds(path, schedule(4, 2), STUDENTS, [])
    with pytest.raises(ParameterError) as caught:
        check_rounds(path, schedule(6, 2), STUDENTS, [])
    assert str(caught.value) == (
        f"{path}: expected 3 rounds of 2 steps (6 in all), got 2 rounds that do not match schedule, students, "
        "sft and evaluation in params.yaml; run `stillroom plan`"
    )


@pytest.mark.parametrize("text", ["rounds: []\ncheckpoints: [init]\n", "rounds:\n", "other: 1\n"])
def test_rounds_edited_by_hand_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rounds.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ParameterError, match=r"got 0 rounds that do not match .*; run `stillroom plan`"):
        check_rounds(path, schedule(4, 2), STUDENTS, [])


def test_the_committed_rounds_are_those_of_the_committed_parameters() -> None:
    params = ROOT / "params.yaml"
    names = [list(lookup(params, key)) for key in ("students", "sft")]
    assert lookup(params, "evaluation", "stop_if_worse") is False
    check_rounds(ROOT / "rounds.yaml", section(params, ScheduleParams, "schedule"), *names)


def test_who_is_tuned_waits_in_another_place_before() -> None:
    document = rounds_document(schedule(2, 2), STUDENTS, ["teacher", "large", "nobody"])
    assert document["teacher_dir"] == "work/base"
    assert document["starts"] == {"small": "init", "large": "untuned"}
    assert document["tuned"] == {
        "teacher": {"base": "work/base", "frozen": "work/plan.json", "out": "work/teacher"},
        "large": {"base": "work/large/untuned/model", "frozen": "work/large/base", "out": "work/large/init/model"},
    }
    assert document["rounds"] == rounds_document(schedule(2, 2), STUDENTS, [])["rounds"]
