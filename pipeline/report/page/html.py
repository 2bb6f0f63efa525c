"""Pieces of HTML. Whatever comes from outside goes through `text` or `data`: a completion may look like a tag."""

import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from pipeline.report.page.charts import Spec
from pipeline.report.page.vega import javascript

Specs = dict[str, Spec]  # by the id of the element that shows each


def text(value: Any) -> str:
    """A value as text of a page."""
    return html.escape(str(value), quote=True)


def data(value: Any) -> str:
    """A value as JSON that may stand inside a script element; numbers that JSON lacks become null."""
    return json.dumps(_finite(value), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts whose first column names the rows; it scrolls by itself where it is too wide."""
    top = "".join(f'<th scope="col">{text(one)}</th>' for one in head)
    body = "".join(
        f'<tr><th scope="row">{text(row[0])}</th>' + "".join(f"<td>{text(one)}</td>" for one in row[1:]) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{text(caption)}"><table><caption>{text(caption)}'
        f"</caption><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def pairs(told: Mapping[str, Any]) -> str:
    """Names and what they stand for."""
    return "<dl>" + "".join(f"<dt>{text(key)}</dt><dd>{text(value)}</dd>" for key, value in told.items()) + "</dl>"


def figure(name: str, title: str, note: str = "") -> str:
    """The place of a chart; the page's script draws it when it comes into view, and tells its values in the output."""
    words = f"<small>{text(note)}</small>" if note else ""
    label = text(f"Chart: {title}; arrow keys go from value to value")
    return (
        f"<figure><figcaption>{text(title)} {words}</figcaption>"
        f'<div class="chart" id="{text(name)}" role="group" tabindex="0" aria-label="{label}"></div>'
        "<output></output></figure>"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the page that the menu names; one without a body stays out of both."""

    name: str
    title: str
    body: str


def grid(*parts: str) -> str:
    """Parts side by side where there is room."""
    return f'<div class="grid">{"".join(parts)}</div>' if any(parts) else ""


def details(summary: str, *parts: str) -> str:
    """Parts that are out of sight until asked for."""
    return f"<details><summary>{text(summary)}</summary>{''.join(parts)}</details>" if any(parts) else ""


def document(title: str, lead: str, sections: Sequence[Section], specs: Specs, cases: Any) -> str:
    """The whole file: style, body, data and scripts in one."""
    told = [one for one in sections if one.body]
    links = "".join(f'<a href="#{one.name}">{text(one.title)}</a>' for one in told)
    body = "".join(f'<section id="{one.name}"><h2>{text(one.title)}</h2>{one.body}</section>' for one in told)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{text(title)}</title>
<style>{_ours("page.css")}</style>
</head>
<body>
<header><h1>{text(title)}</h1><p>{text(lead)}</p><nav aria-label="Sections">{links}</nav></header>
<main>{body}</main>
<noscript><p>The charts and the heat map need JavaScript; the tables do not.</p></noscript>
<script type="application/json" id="specs">{data(specs)}</script>
<script type="application/json" id="cases">{data(cases)}</script>
<script>{javascript()}</script>
<script>{_ours("page.js")}</script>
</body>
</html>
"""


def _ours(name: str) -> str:
    return files("pipeline.report.page").joinpath(name).read_text()
