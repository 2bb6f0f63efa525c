"""Heat map of tokens: completions of held-out prompts by the first and the last checkpoint, side by side.

* Each checkpoint wrote its own completion, so the two texts differ; their divergences share one scale of colours.
* Cost: about 250 bytes per token. Completions that would take the data above BYTES are left out, and the page reports
  how many.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from pipeline.report.page.charts import Row
from pipeline.report.page.html import Section, section
from pipeline.runtime.templates import to_json

BYTES = 1_200_000


def cases(tokens: Sequence[Row], prompts: Sequence[Row], first: str, last: str) -> list[dict[str, Any]]:
    """Return one case per student and prompt: the prompt, its references, and the tokens of two checkpoints.

    Args:
        tokens: Rows of the view `tokens`.
        prompts: Rows of the view `prompts`.
        first: The checkpoint before training.
        last: The checkpoint after training.
    """
    sides_of: dict[tuple[str, str], dict[str, list[Any]]] = defaultdict(dict)
    for row in tokens:
        for side, checkpoint in (("before", first), ("after", last)):
            if row["round"] == checkpoint:
                sides_of[row["student"], row["prompt_id"]].setdefault(side, []).append(_token(row))
    texts = {row["prompt_id"]: row for row in prompts}
    return [
        {
            "student": student,
            "id": prompt_id,
            "prompt": texts.get(prompt_id, {}).get("prompt_text", ""),
            "references": _references(texts.get(prompt_id, {})),
            "sides": sides,
        }
        for (student, prompt_id), sides in sides_of.items()
    ]


def _references(prompt: Row) -> list[str]:
    text = prompt.get("reference_text")
    return [text] if text else list(prompt.get("references") or [])


def _token(row: Row) -> list[Any]:
    """Return text, forward KL, reverse KL, then the likeliest tokens with probabilities of teacher and student."""
    likeliest = [
        [[token, round(p, 4)] for token, p in zip(row[f"{model}_tokens"], row[f"{model}_p"], strict=True)]
        for model in ("teacher", "student")
    ]
    return [row["token"], round(row["forward_kl"], 4), round(row["reverse_kl"], 4), *likeliest]


def fitting(all_cases: Sequence[dict[str, Any]], limit: int = BYTES) -> list[dict[str, Any]]:
    """Return the first cases that take at most `limit` bytes together."""
    sizes = accumulate(len(to_json(case)) for case in all_cases)
    return [case for case, size in zip(all_cases, sizes, strict=True) if size <= limit]


def heat_section(shown: int, total: int) -> Section:
    """Return the section in which the page's script shows the cases; empty if none is shown."""
    return section("tokens", "Where the student still differs", shown=shown, total=total)
