"""pipeline.report.figure: the picture of a run."""

import math

from pipeline.report.figure import render_run
from tests.pages import metrics


def test_the_picture_is_the_same_for_the_same_metrics() -> None:
    picture = render_run(metrics(("small", "tiny")))
    assert picture == render_run(metrics(("small", "tiny")))
    for words in ("student small", "student tiny", "teacher", "ROUGE-L", "forward KL to the teacher"):
        assert words in picture


def test_distances_that_a_logarithmic_axis_cannot_show_are_left_out() -> None:
    run = metrics()
    run["students"]["small"]["before"]["forward_kl"] = math.nan
    run["students"]["small"]["rounds"][0]["forward_kl"] = 0.0
    assert "NaN" not in render_run(run)
