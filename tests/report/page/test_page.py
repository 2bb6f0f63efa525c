"""The page as text: what it contains, what it leaves out, and that no text from outside becomes markup."""

import dataclasses
import json
import math
import re
from collections.abc import Sequence
from typing import Any

import pytest
from markupsafe import escape

from pipeline.report.metric_titles import Measure, measure
from pipeline.report.page import heatmap, quality
from pipeline.report.page.charts import bars, curve
from pipeline.report.page.html import Section, render
from pipeline.report.page.page import comparison_page
from pipeline.report.page.sections import by_round, ledger, origins, thinned, training
from pipeline.runtime.templates import to_json
from tests.factories import lineage_round
from tests.pages import NASTY, costs, lineages, metrics, page, view_rows

TITLES = {
    "Side by side": "side-by-side",
    "Before and after": "headline",
    "Quality on held-out prompts": "quality",
    "Where the student still differs": "tokens",
    "Training": "training",
    "Quality against teacher tokens": "teacher-tokens",
    "Cost": "costs",
    "Teacher scores": "store",
    "Where it comes from": "lineage",
}


def embedded(html: str, name: str) -> Any:
    (text,) = re.findall(f'<script type="application/json" id="{name}">(.*?)</script>', html, re.DOTALL)
    return json.loads(text)


def chart_places(html: str) -> set[str]:
    return set(re.findall(r'<div class="chart" id="([^"]+)"', html))


def test_a_page_has_every_section_and_a_chart_for_every_place() -> None:
    html = page(("small", "tiny"))
    assert re.findall(r'<section id="([^"]+)"><h2>([^<]+)</h2>', html) == [
        (name, title) for title, name in TITLES.items()
    ]
    assert chart_places(html) == set(embedded(html, "specs"))
    assert len(html.encode()) < 3_000_000


def test_unlisted_measures_and_columns_appear_under_their_own_names() -> None:
    html = page()
    assert {"step-wisdom_of_crowds", "training-new_measure", "training-reward"} <= chart_places(html)
    assert "wisdom of crowds" in html
    assert "new measure" in html


def test_a_section_without_content_is_left_out() -> None:
    views: dict[str, Any] = {name: [] for name in view_rows()}
    alone = metrics()
    alone["students"]["small"]["rounds"] = []
    alone["changes"] = {"small": {}}
    html = page(views=views, metrics=alone, last_steps={}, lineages=[])
    assert re.findall(r'<section id="([^"]+)"', html) == ["headline", "lineage"]
    assert chart_places(html) == set()
    assert 'id="tokens"' not in page(views=view_rows() | {"tokens": []})


def test_the_page_contains_the_lineage_of_every_student() -> None:
    body = origins(lineages(("small", "tiny")), costs(), view_rows()["segments"], "seed: 0").body
    assert re.findall("<h3>(.*?)</h3>", body) == ["small", "tiny", "The teacher's scores"]
    for fact in ("teacher-prin", "tokenizer-p", "gsm8k: data openai/gsm8k, config main", "layers 0, 2"):
        assert fact in body
    row = '<th scope="row">r2</th><td>11-20</td><td>1,234</td><td>50</td><td>30</td><td>6.0</td><td>cccccccccccc'
    assert row in body
    assert "small/r1 aaaaaaaaaaaa (50 positions)" in body
    assert "<dt>objective.temperature</dt><dd>1.0</dd>" in body
    assert "Warning" not in body
    other = dataclasses.replace(lineages()[0], rounds=(lineage_round(), lineage_round("r2", teacher="other")))
    assert "Warning: student small: first tuned on data of teacher" in origins([other], {}, [], "").body


def trained(skipped: Sequence[int], limit: float | None) -> Section:
    steps = [row for row in view_rows()["runs"] if row["step"] not in skipped]
    return training(steps, quality.students_of({"": metrics()}), max_staleness=limit)


def specs_of(section: Section) -> dict[str, Any]:
    return {chart.name: chart.spec for chart in section.charts}


def test_the_table_of_rounds_has_skipped_steps_and_the_staleness_at_the_end() -> None:
    section = trained((), None)
    body, specs = section.body, specs_of(section)
    assert "10 of 10" in body
    assert "steps were not taken" not in body
    assert "schedule.max_staleness" not in str(specs)
    section = trained((18, 19, 20), 0.08)
    body, specs = section.body, specs_of(section)
    assert "3 steps were not taken" in body
    loss = sum(row["loss"] for row in view_rows()["runs"][10:17]) / 7
    assert f'<th scope="row">small r2</th><td>7 of 10</td><td>{loss:.3f}</td><td>0.07</td>' in body
    assert "schedule.max_staleness" in str(specs["training-staleness_kl"])
    assert "schedule.max_staleness" not in str(specs["training-loss"])


def test_numbers_that_are_none_are_neither_drawn_nor_averaged() -> None:
    losses = [1.0, math.nan, 3.0, None]
    steps = [{"student": "s", "round": "r1", "step": n, "loss": loss} for n, loss in enumerate(losses)]
    (row,) = by_round(steps)
    assert (row["steps"], row["loss"], row["last_loss"]) == (4, 2.0, None)
    section = training(steps, [], max_staleness=None)
    points = json.loads(to_json(specs_of(section)["training-loss"]))["data"]["values"]
    assert [(point["x"], point["y"]) for point in points] == [(0, 1.0), (2, 3.0)]


def test_texts_from_outside_stay_text() -> None:
    html = page()
    assert NASTY not in html
    assert (
        "<img" not in html.replace(str(re.findall(r"<script>.*?</script>", html, re.DOTALL)), "").split("<script>")[0]
    )
    assert {case["references"][0] for case in embedded(html, "cases")} == {"Ends it."}
    assert NASTY in embedded(html, "cases")[0]["prompt"]
    assert str(escape(NASTY)) in html


def test_data_cannot_close_its_element_and_is_json_for_all_numbers() -> None:
    value = {"a": [float("nan"), float("inf"), 1.5, NASTY, (1, None)]}
    html = page(views=view_rows() | {"prompts": [{"prompt_id": "networkx.case0", "prompt_text": value}]})
    (text,) = re.findall('<script type="application/json" id="cases">(.*?)</script>', html, re.DOTALL)
    assert "<" not in text
    assert json.loads(text)[0]["prompt"] == {"a": [None, None, 1.5, NASTY, [1, None]]}


def test_a_card_contains_the_progress_towards_the_teacher() -> None:
    body = quality.headline(quality.students_of({"": metrics()})).body
    assert "<strong>1.001</strong><small>± 0.050 · before 2.120 ± 0.090 · nats per token</small>" in body
    assert "53% ± 4% of the way to the teacher" in body
    assert "teacher 0.257 ± 0.040" in body
    assert body.count('class="progress"') == 2  # no share of the other ways is known


def test_tables_and_charts_have_the_standard_errors() -> None:
    students = quality.students_of({"": metrics()})
    curves = quality.curves(students)
    assert "<td>2.120 ± 0.090</td>" in curves.body
    assert "<td>0.257 ± 0.040</td>" in curves.body
    (distance,) = [chart for chart in curves.charts if chart.name == "step-forward_kl"]
    values = distance.spec["layer"][0]["data"]["values"] if "data" in distance.spec["layer"][0] else []
    values = values or distance.spec["data"]["values"]
    assert (values[0]["low"], values[0]["high"]) == (pytest.approx(2.03), pytest.approx(2.21))


def test_several_students_are_side_by_side_and_a_single_one_is_not() -> None:
    students = quality.students_of({"": metrics(("small", "tiny"))})
    body = quality.side_by_side(students).body
    assert '<th scope="col">small</th><th scope="col">tiny</th><th scope="col">teacher</th>' in body
    assert '<th scope="row">ROUGE-L</th><td>0.117 → 0.191</td><td>0.117 → 0.205</td><td>0.257 ± 0.040</td>' in body
    assert quality.side_by_side(students[:1]).body == ""
    students[1] = dataclasses.replace(students[1], teacher={"rouge_l": 0.5})
    assert "teacher" not in quality.side_by_side(students).body


def test_cells_are_escaped_and_the_first_names_its_row() -> None:
    html = render("side-by-side", head=["x", "y"], rows=[["a<b", "&"]])
    assert '<th scope="row">a&lt;b</th><td>&amp;</td>' in html


def test_long_logs_are_means_of_consecutive_steps() -> None:
    rows = [{"student": "s", "round": "r", "step": n, "loss": float(n), "reward": None} for n in range(1, 11)]
    rows += [{"student": "t", "round": "r", "step": 1, "loss": 7.0, "reward": float("nan")}]
    means = thinned(rows, 4)
    assert [(row["student"], row["step"], row["loss"]) for row in means] == [
        *[("s", 3, 2.0), ("s", 6, 5.0), ("s", 9, 8.0), ("s", 10, 10.0)],
        ("t", 1, 7.0),
    ]
    assert means[0]["reward"] is None
    assert thinned(rows[:4], 4) == rows[:4]


def test_the_heat_map_has_the_first_and_the_last_checkpoint_side_by_side() -> None:
    views = view_rows()
    cases = heatmap.cases(views["tokens"], views["prompts"], "init", "r3")
    assert [case["id"] for case in cases] == [f"networkx.case{n}" for n in range(6)]
    assert {name: len(tokens) for name, tokens in cases[1]["sides"].items()} == {"before": 30, "after": 30}
    token, forward, reverse, teacher, student = cases[1]["sides"]["after"][3]
    assert (forward, reverse) == (9.0, 4.5)
    assert teacher[0] == [token, 0.5]
    assert student[0] == [teacher[-1][0], 0.4]
    only = heatmap.cases(views["tokens"], [], "init", "init")
    assert set(only[0]["sides"]) == {"before", "after"}


def test_cases_beyond_the_limit_are_left_out_and_counted() -> None:
    views = view_rows()
    cases = heatmap.cases(views["tokens"], views["prompts"], "init", "r3")
    limit = len(to_json(cases[0])) + len(to_json(cases[1]))
    assert heatmap.fitting(cases, limit) == cases[:2]
    assert "4 of 6 completions are left out" in heatmap.heat_section(2, 6).body
    assert heatmap.heat_section(0, 0).body == ""


def test_several_series_have_a_legend_and_one_has_none() -> None:
    single = [{"series": "a", "x": 0, "y": 1.0}]
    for points, legend in ((single, False), ([*single, {"series": "b", "x": 0, "y": 2.0}], True)):
        spec = json.dumps(curve(points, "x", Measure(title="y"), marked=True))
        assert ('"legend": {"orient": "top"}' in spec) == legend
    assert bars([{"group": "g", "series": "a", "y": 1.0}])["encoding"]["color"]["legend"] is None


def test_bars_are_stacked_with_the_largest_total_first() -> None:
    rows = [
        {"group": g, "series": s, "y": y} for g, s, y in (("a", "few", 5.0), ("a", "many", 4.0), ("b", "many", 3.0))
    ]
    spec = bars(rows)
    assert spec["encoding"]["color"]["sort"] == ["many", "few"]
    assert [point["rank"] for point in spec["data"]["values"]] == [1, 0, 0]


def test_the_ledger_reports_cache_hits() -> None:
    body = ledger([row for row in view_rows()["costs"] if row["stage"] in ("score", "prepare")]).body
    assert '<th scope="row">score</th><td>4</td><td>126.0</td><td>16,000</td><td>127</td>' in body
    assert "<td>469.4 kB</td><td>1,400 of 5,656</td>" in body
    assert "1,400 of them were cache hits in the store, which saved about 41 s of the teacher's time" in body
    assert '<th scope="row">prepare</th><td>1</td><td>31.5</td><td>4,000</td><td>127</td><td></td><td></td>' in body


def test_a_comparison_names_every_run_and_student() -> None:
    html = comparison_page({"main": metrics(), "exp<1>": metrics(("small", "tiny"), closeness=2.0)})
    for label in ("main small", "exp&lt;1&gt; small", "exp&lt;1&gt; tiny"):
        assert f"<h3>{label}</h3>" in html
    assert chart_places(html) == set(embedded(html, "specs"))
    assert "exp<1>" not in html


def test_a_metric_at_a_temperature_has_the_format_of_its_greedy_variant() -> None:
    assert (measure("bleu_at_0.6").title, measure("bleu_at_0.6").show(2)) == ("BLEU at 0.6", "2.0")


@pytest.mark.parametrize(("key", "shown"), [("forward_kl", "1.500"), ("eos_share", "150.0%"), ("new_one", "1.5")])
def test_a_measure_has_its_own_format(key: str, shown: str) -> None:
    assert measure(key).show(1.5) == shown
    assert measure(key).show(None) == ""
