"""pipeline.report.summary: the summary of a run, from measurements and costs."""

import math
from typing import Any

import pytest

from pipeline.report.summary import (
    best_round,
    checkpoints,
    costs_by_stage,
    curves_csv,
    deciding_measure,
    key_figures,
    measures,
    quality_curves,
    render_table,
    summarise,
)
from pipeline.runtime.text import markdown_table


def quality(kl: float) -> dict[str, float]:
    return {"forward_kl": kl, "reverse_kl": kl + 1, "top1_agreement": 0.5, "rouge_l": 0.1, "eos_share": 0.25}


TEACHER = {"rouge_l": 0.2, "eos_share": 1.0}
STUDENTS = {"small": [("init", quality(7)), ("r1", quality(3)), ("r2", quality(1))]}
LAST_STEPS = {"r1": 10, "r2": 20}
SCORED = {"positions": 100, "payload_bytes": 3000, "positions_reused": 25}
COSTS: dict[str, dict[str, Any]] = {
    "teacher": {"tokens": 0, "seconds": 1.5},
    "corpus-score": {"tokens": 40, "seconds": 2.0} | SCORED,
    "small-r1-score": {"tokens": 60, "seconds": 3.0, "positions": 100, "payload_bytes": 1000, "positions_reused": 0},
    "small-r1-train": {"tokens": 500, "seconds": 0.0, "steps": 7, "steps_not_taken": 3},
}


def test_metrics_hold_before_after_and_every_round() -> None:
    metrics = summarise("rouge_l", "reverse_kl", TEACHER, STUDENTS, COSTS, LAST_STEPS, {}, {}, {})
    assert metrics["teacher"] == TEACHER
    assert metrics["students"] == {
        "small": {
            "before": quality(7),
            "after": quality(1),
            "rounds": [
                {"id": "r1", "step": 10, "steps_not_taken": 3, "scored_positions": 200, **quality(3)},
                {"id": "r2", "step": 20, "steps_not_taken": 0, "scored_positions": 200, **quality(1)},
            ],
            "best": {"round": "r2", "reverse_kl": 2},
        }
    }


@pytest.mark.parametrize(
    ("distances", "best"),
    [
        ([3.0, 1.0, 2.0], "r2"),
        ([2.0, 1.0, 1.0], "r2"),  # the first of equals
        ([math.nan, 2.0, math.inf], "r2"),
        ([math.nan, math.nan, math.nan], None),
        ([], None),
    ],
)
def test_the_best_round_is_the_first_with_the_smallest_divergence(distances: list[float], best: str | None) -> None:
    row = best_round([(f"r{index}", quality(distance)) for index, distance in enumerate(distances, 1)], "forward_kl")
    assert (row and row["round"]) == best
    if row:
        assert row["forward_kl"] == min(distance for distance in distances if math.isfinite(distance))


def test_the_best_round_by_the_main_metric_has_the_largest() -> None:
    rounds = [(f"r{index}", {"rouge_l": score}) for index, score in enumerate((0.1, 0.3, 0.2), 1)]
    assert best_round(rounds, "rouge_l") == {"round": "r2", "rouge_l": 0.3}


@pytest.mark.parametrize(
    ("divergence", "cross_entropy", "alpha", "name"),
    [
        ("reverse_kl", 0.0, 1.0, "reverse_kl"),
        ("forward_kl", 0.5, 1.0, "forward_kl"),
        ("jsd", 0.0, 1.0, "rouge_l"),
        ("forward_kl", 1.0, 1.0, "rouge_l"),
        ("reverse_kl", 0.0, 0.9, "rouge_l"),
    ],
)
def test_the_trained_kl_decides_which_round_is_best(
    divergence: str, cross_entropy: float, alpha: float, name: str
) -> None:
    objective = {"divergence": {"name": divergence}, "cross_entropy": cross_entropy, "alpha": alpha}
    assert deciding_measure(objective, "rouge_l") == name


def test_the_figures_of_the_store_are_weighted_by_positions() -> None:
    assert summarise("rouge_l", "reverse_kl", TEACHER, STUDENTS, COSTS, LAST_STEPS, {}, {}, {})["store"] == {
        "positions": 200,
        "payload_bytes": 4000,
        "bytes_per_position": 20.0,
        "reused_share": 0.125,
        "teacher_tokens": {"corpus": 40, "small": 60},
        "teacher_tokens_per_trained_token": 0.2,
    }
    nothing = summarise(
        "rouge_l", "reverse_kl", TEACHER, STUDENTS, {"teacher": COSTS["teacher"]}, LAST_STEPS, {}, {}, {}
    )["store"]
    assert nothing["bytes_per_position"] == nothing["reused_share"] == 0


def test_costs_are_added_up_by_the_kind_of_stage() -> None:
    assert costs_by_stage(COSTS) == {
        "teacher": {"runs": 1, "tokens": 0, "seconds": 1.5},
        "score": {"runs": 2, "tokens": 100, "seconds": 5.0},
        "train": {"runs": 1, "tokens": 500, "seconds": 0.0},
    }


def test_the_table_shows_every_model_every_stage_and_the_store() -> None:
    errors = {"small-r2": {"forward_kl": 0.25, "rouge_l": 0.05}}
    metrics = summarise(
        "rouge_l", "reverse_kl", TEACHER, STUDENTS, COSTS, LAST_STEPS, errors, {}, {"small": "small is worse"}
    )
    token_rows, text_rows, cost_rows, *rest = render_table(metrics).split("\n\n")
    assert token_rows.splitlines() == [
        "| model         |    forward KL |   reverse KL |   top-1 agreement |",
        "|:--------------|--------------:|-------------:|------------------:|",
        "| teacher       |               |              |                   |",
        "| small, before |         7.000 |        8.000 |             50.0% |",
        "| small, r1     |         3.000 |        4.000 |             50.0% |",
        "| small, r2     | 1.000 ± 0.250 |        2.000 |             50.0% |",
    ]
    assert text_rows.splitlines() == [
        "| model         |       ROUGE-L |   ends with eos |",
        "|:--------------|--------------:|----------------:|",
        "| teacher       |         0.200 |          100.0% |",
        "| small, before |         0.100 |           25.0% |",
        "| small, r1     |         0.100 |           25.0% |",
        "| small, r2     | 0.100 ± 0.050 |           25.0% |",
    ]
    assert rest[-1].splitlines()[-1] == "warning: small is worse"
    assert cost_rows.splitlines()[2:] == [
        "| teacher |      1 |        0 |       1.5 |          0 |",
        "| score   |      2 |      100 |       5.0 |         20 |",
        "| train   |      1 |      500 |       0.0 |          0 |",
    ]
    assert rest[0].startswith("6 s in all stages. ")
    assert "Store: 200 positions, 20.0 bytes each; cache hits: 12.5% of the positions." in rest[0]
    assert "Tokens that the teacher read to score: corpus 40, small 60. All students share the corpus." in rest[0]


def test_the_column_follows_the_tasks_metric() -> None:
    table = render_table(
        summarise("exact_match", "exact_match", {"exact_match": 0.5, "eos_share": 1.0}, {}, {}, {}, {}, {}, {})
    )
    assert "exact match" in table
    assert "ROUGE-L" not in table


def test_a_metric_at_a_temperature_follows_its_greedy_variant() -> None:
    scores = {"eos_share": 1.0, "rouge_l": 0.5, "rouge_l_at_0.6": 0.4, "rouge_l_at_1": 0.3}
    header, *_ = render_table(summarise("rouge_l", "reverse_kl", scores, {}, {}, {}, {}, {}, {})).splitlines()
    titles = ["model", "ROUGE-L", "ROUGE-L at 0.6", "ROUGE-L at 1", "ends with eos"]
    assert [cell.strip() for cell in header.strip("|").split("|")] == titles


def test_an_unlisted_metric_has_a_column_under_its_own_name() -> None:
    table = render_table(summarise("wit_and_style", "wit_and_style", {"wit_and_style": 0.5}, {}, {}, {}, {}, {}, {}))
    assert table.splitlines()[:3] == [
        "| model   |   wit and style |",
        "|:--------|----------------:|",
        "| teacher |             0.5 |",
    ]


def test_a_table_is_aligned_with_its_first_column_to_the_left() -> None:
    table = markdown_table([["a", "n"], ["longer", "1e3"], [" x", ""]])
    assert table.splitlines() == ["| a      |   n |", "|:-------|----:|", "| longer | 1e3 |", "|  x     |     |"]


def test_dvc_gets_a_row_of_few_numbers_per_model() -> None:
    figures = key_figures(summarise("rouge_l", "reverse_kl", TEACHER, STUDENTS, COSTS, LAST_STEPS, {}, {}, {}))
    assert figures == {
        "teacher": TEACHER,
        "small": quality(1),
        "costs": {"seconds": 6, "scored_positions": 200},
    }
    errors = {"teacher": {"rouge_l": 0.0412345}, "small-r2": {"forward_kl": 0.25, "rouge_l": 0.05, "x": 1.0}}
    figures = key_figures(summarise("rouge_l", "reverse_kl", TEACHER, STUDENTS, COSTS, LAST_STEPS, errors, {}, {}))
    assert figures["teacher-error"] == {"rouge_l": 0.04123}
    assert figures["small-error"] == {"forward_kl": 0.25, "rouge_l": 0.05}
    other = {"x": 0.123456, "x_at_1": 0.5, "eos_share": 1.0}
    assert key_figures(summarise("x", "x", other, {}, {}, {}, {}, {}, {}))["teacher"] == {"x": 0.1235, "eos_share": 1.0}


def test_curves_begin_with_the_first_checkpoint_and_contain_every_measure() -> None:
    metrics = summarise("rouge_l", "reverse_kl", TEACHER, STUDENTS, COSTS, LAST_STEPS, {}, {}, {})
    assert measures(checkpoints(metrics["students"]["small"])) == list(quality(1))
    assert quality_curves(metrics, "forward_kl") == {"small": {0: 7, 10: 3, 20: 1}}


def test_curves_have_one_row_per_step_and_empty_cells_where_a_student_has_no_value() -> None:
    assert curves_csv({"a": {1: 3.0, 2: 2.5}, "b": {2: 4.0}}).splitlines() == ["step,a,b", "1,3.0,", "2,2.5,4.0"]
