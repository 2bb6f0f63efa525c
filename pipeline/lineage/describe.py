"""A lineage in words: what `stillroom lineage` prints, with what dvc.lock and work/costs add to a model's own metadata.

Seconds, commits and what the store spared are no property of the model, so they come from work/costs and are unknown
where a model directory has been taken out of its project.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.lineage.dvc_index import OutputRecord, load_index, trace
from pipeline.lineage.lineage import FILE, history, kept_layers, last_warning, read_lineage
from pipeline.lineage.model_card import model_card
from pipeline.lineage.records import Lineage, ModelSource, Round
from pipeline.runtime.errors import DataError
from pipeline.runtime.files import read_json
from pipeline.runtime.layout import Layout
from pipeline.runtime.markdown import markdown_table

Costs = Mapping[str, Mapping[str, Any]]  # work/costs, by name
_SHOWN = 12
_STAGES = ("rollout", "score", "train")


def as_json(lineage: Lineage, costs: Costs, ran: OutputRecord | None) -> dict[str, Any]:
    """For programs: the metadata, the rounds' costs, dvc.lock, and the warning."""
    return asdict(lineage) | {
        "costs": {one.id: {stage: _cost(lineage, one, stage, costs) for stage in _STAGES} for one in lineage.rounds},
        "dvc_lock": asdict(ran) if ran else None,
        "warning": last_warning(lineage),
    }


def as_text(lineage: Lineage, costs: Costs, ran: OutputRecord | None) -> str:
    """For people."""
    lines: list[str] = []
    for run in history(lineage):
        here = run is lineage
        told = facts(run) | {f"parameters.{name}": value for name, value in parameters(run).items()}
        lines += [*_aligned(told), "", *_rounds(run, costs if here else {}), ""]
        lines += ["Scores of each round:", *(f"  {name}: {value}" for name, value in scores(run).items()), ""]
        if not here:
            lines += ["... and from there, in this run:", ""]
    lines += _ran_lines(ran)
    if warning := last_warning(lineage):
        lines.append(f"warning: {warning}")
    return "\n".join(lines) + "\n"


def facts(run: Lineage) -> dict[str, str]:
    """What is known of a run of a student but its parameters and its rounds."""
    last = run.rounds[-1] if run.rounds else None
    found = {"student": run.student or "none: this is a teacher", "teacher": _source(run.teacher)}
    if run.start:
        kept = f", layers {kept_layers(run)}" if run.layers else ""
        fresh = f", random weights with {run.config}" if run.config is not None else ""
        found["begins as"] = _source(run.start) + kept + fresh
    if run.tunings:
        found["tuned on references"] = ", ".join(
            f"{one.model} for {one.parameters['steps']} steps" for one in run.tunings
        )
    if run.lora:
        found["LoRA adapter"] = ", ".join(f"{name} {value}" for name, value in flat(run.lora).items())
    if last:
        found["tokenizer"] = last.tokenizer[:_SHOWN]
        found["data"] = f"{last.task}: " + ", ".join(f"{name} {value}" for name, value in flat(last.settings).items())
        found["prompts"] = ", ".join(f"{one.id} {one.prompts[:_SHOWN]}" for one in run.rounds)
    return found


def parameters(run: Lineage) -> dict[str, str]:
    """Those of the last round, by dotted name."""
    return flat(run.rounds[-1].parameters) if run.rounds else {}


def flat(value: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """A nested mapping by dotted name, lists in one line."""
    found: dict[str, str] = {}
    for key, one in value.items():
        shown = " ".join(map(str, one)) if isinstance(one, list | tuple) else str(one)
        found |= flat(one, f"{above}{key}.") if isinstance(one, Mapping) else {f"{above}{key}": shown}
    return found


def scores(run: Lineage) -> dict[str, str]:
    """Round to the segments of teacher scores that it was trained on."""
    return {one.id: _scored(one) for one in run.rounds}


def _aligned(told: Mapping[str, str]) -> list[str]:
    width = max(map(len, told))
    return [f"{name.ljust(width)}  {value}" for name, value in told.items()]


def _source(one: ModelSource) -> str:
    revision = f" at {one.revision}" if one.revision else ""
    return f"{one.model}{revision}, licence {one.license or 'unknown'}, fingerprint {one.fingerprint[:_SHOWN]}"


def _rounds(run: Lineage, costs: Costs) -> list[str]:
    return [markdown_table(rounds(run, costs))] if run.rounds else ["No round yet."]


def rounds(run: Lineage, costs: Costs) -> list[list[str]]:
    """A table with its head: what each round read, asked and took."""
    rows = [["round", "steps", "tokens trained", "teacher tokens", "of them new", "seconds", "code"]]
    for one in run.rounds:
        spent = [_cost(run, one, stage, costs) for stage in _STAGES]
        score, seconds = spent[1], [cost["seconds"] for cost in spent if cost]
        new = score["positions"] - score["positions_reused"] if score else None
        rows.append(
            [
                *(one.id, f"{one.first_step + 1}-{one.first_step + one.steps}", f"{one.tokens:,}"),
                *(f"{_own(one):,}", "unknown" if new is None else f"{new:,}"),
                *(f"{sum(seconds):,.1f}" if seconds else "unknown", _code(spent[2])),
            ]
        )
    return rows


def _own(one: Round) -> int:
    """The teacher's rows of this round alone; the corpus is every round's."""
    return sum(segment.positions for segment in one.scored if segment.name != "corpus")


def _scored(one: Round) -> str:
    return ", ".join(f"{part.name} {part.segment[:_SHOWN]} ({part.positions:,} positions)" for part in one.scored)


def _code(cost: Mapping[str, Any] | None) -> str:
    if not cost or not cost.get("commit"):
        return "unknown"
    return str(cost["commit"])[:_SHOWN] + (", altered" if cost["dirty"] else "")


def _cost(run: Lineage, one: Round, stage: str, costs: Costs) -> Mapping[str, Any] | None:
    return costs.get(f"{run.student}-{one.id}-{stage}")


def _ran_lines(ran: OutputRecord | None) -> list[str]:
    if ran is None:
        return ["dvc.lock: does not know this directory"]
    lines = [f"dvc.lock: {ran.md5}, code {ran.code[:_SHOWN]}, made by {len(ran.stages)} stages with"]
    return [*lines, *(f"  {name}: {value}" for name, value in ran.parameters.items())]


def tell(model: Path, *, to_json: bool) -> dict[str, Any] | str:
    """What is known about a model directory, as a value or in words."""
    lineage, root = _lineage(model), _project(model)
    costs = {one.stem: read_json(one) for one in Layout(root).costs.glob("*.json")} if root else {}
    ran = _ran(model, root) if root else None
    return as_json(lineage, costs, ran) if to_json else as_text(lineage, costs, ran)


def card(model: Path) -> str:
    """The model card with the figures of the evaluation, where there is one."""
    lineage, root = _lineage(model), _project(model)
    if not lineage.rounds:
        raise DataError(model, expected="a trained student", got="no round", remedy="name work/STUDENT/ROUND/model")
    measured = Layout(root).evaluation(f"{lineage.student}-{lineage.rounds[-1].id}") if root else None
    found = read_json(measured)["metrics"] if measured and measured.is_file() else {}
    return model_card(lineage, {name: one for name, one in found.items() if isinstance(one, int | float)})


def _lineage(model: Path) -> Lineage:
    lineage = read_lineage(model)
    if lineage is None:
        remedy = "name a model directory that this pipeline made"
        raise DataError(model, expected=f"a directory with {FILE}", got="none", remedy=remedy)
    return lineage


def _project(model: Path) -> Path | None:
    return next((one for one in model.resolve().parents if (one / "dvc.yaml").is_file()), None)


def _ran(model: Path, root: Path) -> OutputRecord | None:
    return trace(load_index(root), model.resolve().relative_to(root).as_posix())
