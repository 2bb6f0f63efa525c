"""What the report warns of: changes within their standard errors, and students that training made worse."""

from typing import Any

from pipeline.report.significance import warnings_of


def run(rouge: float, teacher: float, *, error: float, share: float | None, worse: str | None = None) -> dict[str, Any]:
    """Return metrics.json of a run whose forward KL surely fell."""
    before, after = {"forward_kl": 2.0, "rouge_l": 0.1}, {"forward_kl": 1.0, "rouge_l": rouge}
    changes = {
        "forward_kl": {"difference": -1.0, "error": 0.1, "goal": 0.0, "share": 0.5, "share_error": 0.05},
        "rouge_l": {
            "difference": rouge - 0.1,
            "error": error,
            "goal": teacher,
            "share": share,
            "share_error": share and 0.1,
        },
    }
    return {
        "headline": "rouge_l",
        "teacher": {"rouge_l": teacher},
        "students": {"small": {"before": before, "after": after, "rounds": [{"id": "r1", **after}]}},
        "errors": {"teacher": {"rouge_l": 0.04}, "small": {key: {"rouge_l": 0.03} for key in ("before", "r1")}},
        "changes": {"small": changes},
        "worse": {"small": worse},
        "warnings": ["train: 3 of 10 cases are too long"],
    }


def test_a_run_warns_of_what_is_within_its_paired_error() -> None:
    assert warnings_of(run(0.2, 0.3, error=0.09, share=0.5)) == ["train: 3 of 10 cases are too long"]
    assert warnings_of(run(0.12, 0.14, error=0.03, share=None))[1:] == [
        "small: the change of ROUGE-L from 0.100 ± 0.030 to 0.120 ± 0.030 is within its standard error; "
        "raise evaluation.prompts",
        "small: the way of ROUGE-L from 0.100 ± 0.030 to the teacher's 0.140 ± 0.040 is within its standard error, "
        "so that no share of it is shown",
    ]


def test_nothing_is_said_of_no_way_at_all() -> None:
    assert warnings_of(run(0.2, 0.1, error=0.03, share=None)) == ["train: 3 of 10 cases are too long"]


def test_a_student_that_became_worse_is_the_last_warning() -> None:
    assert warnings_of(run(0.12, 0.14, error=0.03, share=None, worse="small r1 is worse"))[-1] == "small r1 is worse"


def test_a_run_of_an_earlier_version_knows_no_changes() -> None:
    old = run(0.12, 0.14, error=0.03, share=None)
    del old["errors"], old["warnings"], old["changes"], old["worse"]
    assert warnings_of(old) == []
