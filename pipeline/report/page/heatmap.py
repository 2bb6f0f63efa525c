"""The heat map of tokens: completions of the held-out prompts by the first and the last checkpoint, side by side.

Each completion is the student's own at that time, so the two differ; their divergences are on one scale of colours.
Cost: about 250 bytes a token; prompts that would take the data above BYTES stay out, and the page says how many.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.report.page.html import Section, data, text
from pipeline.report.page.queries import Row

BYTES = 1_200_000
_CONTROLS = """
<form class="controls" aria-label="Heat map">
<label>Student <select id="heat-student"></select></label>
<label>Colour <select id="heat-measure">
<option value="f">forward KL</option><option value="r">reverse KL</option></select></label>
<label>Order <select id="heat-order">
<option value="worst">worst after training first</option>
<option value="token">worst single token first</option>
<option value="gain">largest gain first</option>
<option value="loss">smallest gain first</option>
<option value="prompt">as in the data</option></select></label>
<span id="heat-scale" class="scale"></span>
</form>
<div id="heat-cases"></div>
<div id="heat-detail" role="status" aria-live="polite"></div>
"""


def cases(tokens: Sequence[Row], prompts: Mapping[str, Row], first: str, last: str) -> list[dict[str, Any]]:
    """One a student and prompt: the prompt, its references, and the tokens before (`first`) and after (`last`)."""
    found: dict[tuple[str, str], dict[str, list[Any]]] = defaultdict(dict)
    for row in tokens:
        if row["round"] in (first, last):
            sides = found[row["student"], row["prompt_id"]]
            for side in ("before",) * (row["round"] == first) + ("after",) * (row["round"] == last):
                sides.setdefault(side, []).append(_token(row))
    return [
        {
            "student": student,
            "id": prompt_id,
            "prompt": prompts.get(prompt_id, {}).get("prompt_text", ""),
            "references": _references(prompts.get(prompt_id, {})),
            "sides": sides,
        }
        for (student, prompt_id), sides in found.items()
    ]


def _references(prompt: Row) -> list[str]:
    one = prompt.get("reference_text")
    return [one] if one else list(prompt.get("references") or [])


def _token(row: Row) -> list[Any]:
    """Text, forward KL, reverse KL, then the likeliest tokens and their probabilities of teacher and student."""
    likeliest = [
        [[token, round(p, 4)] for token, p in zip(row[f"{who}_tokens"], row[f"{who}_p"], strict=True)]
        for who in ("teacher", "student")
    ]
    return [row["token"], round(row["forward_kl"], 4), round(row["reverse_kl"], 4), *likeliest]


def fitting(found: Sequence[dict[str, Any]], limit: int = BYTES) -> list[dict[str, Any]]:
    """The first cases that take at most `limit` bytes together."""
    kept, size = [], 0
    for one in found:
        size += len(data(one))
        if size > limit:
            break
        kept.append(one)
    return kept


def heat_section(shown: int, found: int) -> Section:
    """The section in which the page's script shows the cases; empty without any."""
    words = (
        "Completions that the student sampled for held-out prompts, before its first and after its last round. The "
        "stronger a token's colour, the further the student's distribution was from the teacher's at that place. "
        "A dotted line: the two would not have put the same token first. Hover, tap, or go through the tokens with "
        "Tab and the arrow keys to see both distributions."
    )
    if shown < found:
        words += f" {found - shown} of {found} completions are left out to keep the page small."
    body = f"<p>{text(words)}</p>{_CONTROLS}" if shown else ""
    return Section(name="tokens", title="Where the student still differs", body=body)
