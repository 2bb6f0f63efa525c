"""pipeline.runtime.layout: the rounds of rounds.yaml, and the names of the files in work/costs."""

from pipeline.runtime.layout import cost_names, round_list

ROUNDS = {
    f"{student}-r{index + 1}": {
        "student": student,
        "round": f"r{index + 1}",
        "prev": f"r{index}" if index else "init",
        "first_step": 4 * index,
        "steps": 4 - index,
    }
    for student in ("a", "b")
    for index in range(2)
}
DOCUMENT = {"rounds": ROUNDS, "starts": {"a": "untuned", "b": "init"}, "tuned": {"teacher": {}, "a": {}}}


def test_each_round_is_listed_once() -> None:
    assert round_list(DOCUMENT) == [
        {"id": "r1", "prev": "init", "first_step": 0, "steps": 4},
        {"id": "r2", "prev": "r1", "first_step": 4, "steps": 3},
    ]


def test_costs_of_shared_stages_come_first_and_then_student_by_student() -> None:
    assert cost_names(DOCUMENT) == [
        *("teacher", "prepare", "teacher-sft", "generate", "corpus-score", "teacher-evaluate"),
        *("a-init", "a-sft", "a-init-evaluate"),
        *(f"a-{id_}-{stage}" for id_ in ("r1", "r2") for stage in ("rollout", "score", "train", "evaluate")),
        *("b-init", "b-init-evaluate"),
        *(f"b-{id_}-{stage}" for id_ in ("r1", "r2") for stage in ("rollout", "score", "train", "evaluate")),
    ]
