"""Sections of a page, from data and the Jinja templates beside this module.

* Whatever comes from outside is text in the page: templates escape every value, and the data that the page's script
  reads is JSON without `<`. A completion may look like a tag.
* A page is one file: styles, scripts and data are part of it. Vega, Vega-Lite and its embedder come from the installed
  vl-convert, so nothing is fetched from a network, neither when the page is written nor when it is opened.
* Cost: 900 kB of scripts per page, and one second to bundle them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import vl_convert
from markupsafe import Markup

from pipeline.report.page.charts import Chart, Row
from pipeline.runtime.templates import fill_template


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the page that the menu names; a section with an empty body appears in neither."""

    name: str
    title: str
    body: str
    charts: Sequence[Chart]


def section(name: str, title: str, charts: Sequence[Chart] = (), *, template: str = "", **values: Any) -> Section:
    """Return the section that a template renders.

    Args:
        name: The id of the section's element.
        title: The heading.
        charts: All charts of the section; the template reads them as `charts` or from `values`.
        template: Name of the template, if it is not `name`.
        values: What the template reads.
    """
    body = render(template or name, charts=charts, **values).strip()
    return Section(name=name, title=title, body=Markup(body), charts=charts)


def place(row: Row) -> str:
    """Return the student and the round of a row, as far as it has them."""
    return f"{row['student']} {row['round']}".strip()


def document(title: str, lead: str, sections: Sequence[Section], cases: Sequence[Any]) -> str:
    """Return the whole file; `cases` are those of the heat map."""
    shown = [part for part in sections if part.body]
    specs = {chart.name: chart.spec for part in shown for chart in part.charts}
    scripts = {
        name: Markup(files(__package__).joinpath(f"page.{name}").read_text(encoding="utf-8")) for name in ("css", "js")
    }
    values = {"title": title, "lead": lead, "sections": shown, "specs": specs, "cases": cases}
    return render("page", vega=javascript(), **scripts, **values)


def dvc_template() -> str:
    """Return the page that `dvc plots show` fills in; unlike the page of DVC, it needs no network."""
    return render("dvc", vega=javascript())


def render(template: str, **values: Any) -> str:
    """Return the text of a template with these values."""
    return fill_template(Path(__file__).parent / "templates" / f"{template}.html.j2", **values)


@cache
def javascript() -> Markup:
    """Return Vega, Vega-Lite and its embedder as one script for a `script` element; it sets `vegaEmbed`."""
    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return Markup(script.replace("</script", "<\\/script"))
