"""Warnings of a run: of its stages, of changes within their standard errors, and of a student that training made worse.

Errors of changes are paired over the prompts, which the models before and after training both complete.
"""

from collections.abc import Mapping
from typing import Any

from pipeline.report.metric_titles import measure


def warnings_of(metrics: Mapping[str, Any]) -> list[str]:
    """Return all warnings, from the content of metrics.json; the last ones are about worse students."""
    warnings = list(metrics.get("warnings", ()))
    for name, changes in metrics.get("changes", {}).items():
        for key in ("forward_kl", metrics["headline"]):
            change = changes.get(key)
            if change is not None and change["error"] is not None:
                warnings += [f"{name}: {text}" for text in _texts(name, key, change, metrics)]
    return warnings + [message for message in metrics.get("worse", {}).values() if message]


def _texts(name: str, key: str, change: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[str]:
    """Return what is uncertain of a change."""
    about, student, errors, texts = measure(key), metrics["students"][name], metrics["errors"], []
    ends = {"before": student["before"], student["rounds"][-1]["id"]: student["after"]}
    before, after = (about.show_with_error(end[key], errors[name][id_].get(key)) for id_, end in ends.items())
    if abs(change["difference"]) <= change["error"]:
        change_text = f"the change of {about.title} from {before} to {after}"
        texts.append(f"{change_text} is within its standard error; raise evaluation.prompts")
    if change["share"] is None and change["goal"] not in (None, student["before"][key]):
        goal = about.show_with_error(change["goal"], errors["teacher"].get(key))
        way = f"the way of {about.title} from {before} to the teacher's {goal}"
        texts.append(f"{way} is within its standard error, so that no share of it is shown")
    return texts
