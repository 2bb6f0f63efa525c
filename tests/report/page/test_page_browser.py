"""The page in a real browser without a network: charts, keyboard and touch, and contrast for readers."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from pipeline.report.page.html import dvc_template
from pipeline.report.page.page import comparison_page
from tests.pages import metrics, page

DRAWN = "document.querySelectorAll('.chart[data-drawn] svg').length"
CASES = "[...document.querySelectorAll('.case h3')].map(one => one.textContent)"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no chromium on this machine: the report was not looked at in a browser")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "index.html"
    path.write_text(page(("small", "tiny")), encoding="utf-8")
    return path


def opened(
    browser: Browser, path: Path, *, width: int = 1200, scheme: Any = "light", touch: bool = False
) -> tuple[Page, list[str]]:
    """Open the page and return it with the list of its requests and messages, which grows."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True, has_touch=touch, is_mobile=touch
    )
    context.set_default_timeout(120_000)
    tab, messages = context.new_page(), []
    tab.on("console", lambda message: messages.append(f"{message.type}: {message.text}"))
    tab.on("pageerror", lambda error: messages.append(f"error: {error}"))
    tab.on("request", lambda request: messages.append(request.url) if request.url != path.as_uri() else None)
    tab.goto(path.as_uri())
    return tab, messages


def draw_all(tab: Page) -> None:
    tab.evaluate("document.querySelectorAll('main > section > details').forEach(one => { one.open = true })")
    for index in range(tab.locator(".chart").count()):
        tab.locator(".chart").nth(index).scroll_into_view_if_needed()
    tab.wait_for_function(f"{DRAWN} === document.querySelectorAll('.chart').length")


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (360, "dark")])
def test_every_chart_is_drawn_without_network_complaint_or_sideways_scrolling(
    browser: Browser, report: Path, width: int, scheme: str
) -> None:
    tab, messages = opened(browser, report, width=width, scheme=scheme)
    draw_all(tab)
    assert tab.locator(".chart").count() > 15
    charts = tab.locator(".chart")
    bare = charts.filter(has_not=tab.locator(".mark-line, .mark-rect, .mark-symbol"))
    assert bare.count() == 0
    assert messages == []
    assert tab.evaluate("window.broken") is None
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    rights = charts.locator("svg").evaluate_all("all => all.map(one => one.getBoundingClientRect().right)")
    assert max(rights) <= width


def test_the_keyboard_shows_the_values_of_a_chart(browser: Browser, report: Path) -> None:
    tab, messages = opened(browser, report)
    chart = tab.locator("#step-forward_kl")
    output, current = tab.locator("#step-forward_kl + output"), chart.locator(".current")
    chart.scroll_into_view_if_needed()
    tab.wait_for_selector("#step-forward_kl[data-drawn]")
    tab.locator("nav a").last.focus()
    tab.keyboard.press("Tab")
    while tab.evaluate("document.activeElement.id") != "step-forward_kl":  # it can be reached, and is no trap
        tab.keyboard.press("Tab")
    assert output.inner_text() == ""
    for key, value in (
        ("ArrowRight", "small, optimizer steps 0, forward KL 2.120"),
        ("ArrowRight", "small, optimizer steps 10, forward KL 1.651"),
        ("ArrowLeft", "small, optimizer steps 0, forward KL 2.120"),
        ("ArrowLeft", "small, optimizer steps 0, forward KL 2.120"),
        ("End", "tiny, optimizer steps 30, forward KL 0.780"),
        ("ArrowRight", "tiny, optimizer steps 30, forward KL 0.780"),
        ("Home", "small, optimizer steps 0, forward KL 2.120"),
    ):
        tab.keyboard.press(key)
        assert output.inner_text() == value
        assert current.count() == 1
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.id") == "step-reverse_kl"
    assert messages == []


@pytest.mark.parametrize("name", ["costs-by-round", "store-tail", "training-loss"])
def test_every_kind_of_chart_has_values_for_the_keyboard(browser: Browser, report: Path, name: str) -> None:
    tab, _ = opened(browser, report)
    tab.locator(f"#{name}").scroll_into_view_if_needed()
    tab.wait_for_selector(f"#{name}[data-drawn]")
    tab.locator(f"#{name}").focus()
    tab.keyboard.press("End")
    last = {
        "costs-by-round": "tiny r3, train, seconds 31.5",
        "store-tail": "tiny r3, student, mean 0.300, p50 0.200, p90 0.600",
        "training-loss": "tiny, optimizer steps 30, training loss 0.9826",
    }
    assert tab.locator(f"#{name} + output").inner_text() == last[name]


def test_a_phone_shows_both_distributions_of_a_tapped_token_and_the_value_of_a_tapped_point(
    browser: Browser, report: Path
) -> None:
    tab, messages = opened(browser, report, width=390, touch=True)
    detail = tab.locator("#heat-detail")
    tab.locator(".tokens").first.locator("span").nth(2).tap()
    assert detail.locator("table").count() == 2
    assert [detail.locator("table").nth(n).locator("tr").count() for n in (0, 1)] == [5, 5]
    box = detail.bounding_box()
    assert box is not None
    assert 0 <= box["x"] <= box["x"] + box["width"] <= 390
    assert box["y"] + box["height"] <= 900.5  # it is on the screen, and leaves half of it to the text
    assert box["height"] <= 450
    rights = detail.locator("td.p").evaluate_all("all => all.map(one => one.getBoundingClientRect().right)")
    assert max(rights) <= 390
    shown = detail.inner_text()
    tab.locator(".tokens").nth(1).locator("span").nth(5).tap()
    assert detail.inner_text() != shown
    tab.locator("#step-forward_kl").scroll_into_view_if_needed()
    tab.wait_for_selector("#step-forward_kl[data-drawn]")
    tab.locator("#step-forward_kl .mark-symbol.role-mark path").nth(1).tap()
    assert tab.locator("#step-forward_kl + output").inner_text() == "small, optimizer steps 10, forward KL 1.651"
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    assert messages == []


def test_a_token_shows_both_distributions_when_hovered_and_by_keyboard(browser: Browser, report: Path) -> None:
    tab, messages = opened(browser, report)
    detail = tab.locator("#heat-detail")
    assert not detail.is_visible()
    first = tab.locator(".tokens").first
    first.locator("span").nth(2).hover()
    assert detail.locator("table").count() == 2
    assert detail.locator("tr").count() == 10
    assert "forward KL" in detail.inner_text()
    assert "50.0 %" in detail.locator("table").first.inner_text()

    first.focus()
    tab.keyboard.press("ArrowRight")
    assert tab.locator(".chosen").count() == 1
    chosen = "[...document.querySelector('.tokens').children].findIndex(one => one.matches('.chosen'))"
    assert tab.evaluate(chosen) == 3
    tab.keyboard.press("ArrowLeft")
    assert tab.evaluate(chosen) == 2
    tab.keyboard.press("Tab")
    assert tab.evaluate("[...document.querySelectorAll('.tokens')].indexOf(document.activeElement)") == 1
    tab.keyboard.press("Escape")
    assert not detail.is_visible()
    assert messages == []


def test_cases_follow_the_chosen_order_and_divergence(browser: Browser, report: Path) -> None:
    tab, _ = opened(browser, report)
    names = [f"networkx.case{n}" for n in range(6)]
    assert tab.evaluate(CASES) == [names[n] for n in (5, 4, 3, 1, 2, 0)]  # one bad token lifts the second
    tab.select_option("#heat-order", "token")
    assert tab.evaluate(CASES)[0] == names[1]
    tab.select_option("#heat-order", "prompt")
    assert tab.evaluate(CASES) == names
    tab.select_option("#heat-order", "gain")
    assert tab.evaluate(CASES)[0] == names[5]
    head = tab.locator(".sides h4").first
    before = float(head.inner_text().split()[1])
    tab.select_option("#heat-measure", "r")
    assert float(head.inner_text().split()[1]) == pytest.approx(before / 2, abs=0.011)
    tab.select_option("#heat-student", "tiny")
    assert len(tab.evaluate(CASES)) == 6


def luminance(colour: tuple[float, ...]) -> float:
    """WCAG 2's relative luminance of an sRGB colour of 0 to 255."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (value / 255 for value in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(ink: tuple[float, ...], ground: tuple[float, ...]) -> float:
    light, dark = sorted((luminance(ink), luminance(ground)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def rgb(css: str) -> tuple[float, ...]:
    """The numbers of rgb(r, g, b), with the alpha if there is one."""
    return tuple(float(value) for value in css[css.index("(") + 1 : -1].replace(",", " ").replace("/", " ").split())


def test_contrast_of_known_colours() -> None:
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast(rgb("rgb(119, 119, 119)"), (255, 255, 255)) == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_and_lines_have_enough_contrast(browser: Browser, report: Path, scheme: str) -> None:
    tab, _ = opened(browser, report, scheme=scheme)
    draw_all(tab)
    style = "one => { const s = getComputedStyle(one); return [s.color, s.backgroundColor] }"
    ground = rgb(tab.locator("body").evaluate(style)[1])
    raised = rgb(tab.locator(".card").first.evaluate(style)[1])
    assert (luminance(ground) < 0.5) == (scheme == "dark")
    for selector, behind in (("body", ground), ("header p", ground), ("nav a", ground), (".card small", raised)):
        assert contrast(rgb(tab.locator(selector).first.evaluate(style)[0]), behind) >= 4.5, selector
    for ink, heat in tab.locator(".tokens span").evaluate_all(f"all => all.map({style})"):
        *colour, alpha = [*rgb(heat), 1.0][:4]
        mixed = tuple(alpha * c + (1 - alpha) * g for c, g in zip(colour, ground, strict=True))
        assert contrast(rgb(ink), mixed) >= 4.5
    label = "all => all.map(one => getComputedStyle(one).fill)"
    fills = set(tab.locator(".chart .role-axis-label text").evaluate_all(label))
    strokes = "all => all.map(one => getComputedStyle(one).stroke)"
    lines = set(tab.locator(".chart .mark-line path").evaluate_all(strokes)) - {"none"}
    assert len(lines) == 2
    assert fills
    assert all(contrast(rgb(fill), ground) >= 4.5 for fill in fills)
    assert all(contrast(rgb(line), ground) >= 3 for line in lines)


def test_a_comparison_is_drawn_too(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "compare.html"
    path.write_text(comparison_page({"main": metrics(), "other": metrics(closeness=2.0)}), encoding="utf-8")
    tab, messages = opened(browser, path)
    draw_all(tab)
    assert messages == []


def test_plots_of_dvc_are_drawn_without_a_network(browser: Browser, tmp_path: Path) -> None:
    from dvc_render import VegaRenderer
    from dvc_render.html import render_html

    points = [{"step": step, "small": 3.0 / step, "rev": "workspace"} for step in (1, 2, 3)]
    plot = VegaRenderer(
        points, "loss", x="step", y="small", anchors_y_definitions=[{"filename": "f", "field": "small"}]
    )
    template = tmp_path / "template.html"
    template.write_text(dvc_template(), encoding="utf-8")
    path = Path(render_html([plot], tmp_path / "index.html", template))
    tab, messages = opened(browser, path)
    tab.wait_for_selector("#loss svg, #loss canvas")
    assert [
        message for message in messages if not message.startswith("warning: ")
    ] == []  # it warns of DVC's older Vega-Lite
