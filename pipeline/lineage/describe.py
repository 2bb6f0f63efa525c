"""Describe where a model comes from, for people and for programs (`stillroom lineage`).

The lineage in the model directory has the models, data, parameters and rounds. Seconds, commits and the numbers of
reused scores come from work/costs, the stages behind the model from dvc.lock, and the warning about a worse student
from work/evaluations; all are unknown for a model directory outside its project.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.lineage.dvc_index import OutputRecord, load_index, trace
from pipeline.lineage.lineage import FILE, history, kept_layers, last_warning, read_lineage
from pipeline.lineage.model_card import model_card
from pipeline.lineage.records import Lineage, ModelSource, Round, Scored
from pipeline.runtime.errors import DataError
from pipeline.runtime.files import read_json
from pipeline.runtime.layout import Layout
from pipeline.runtime.templates import fill_template
from pipeline.runtime.text import number_text, short

Costs = Mapping[str, Mapping[str, Any]]  # the files of work/costs, by name


def describe_card(model: Path) -> str:
    """Return the model card of a trained student with the metrics of its evaluation, where there is one.

    Raises:
        DataError: The directory has no lineage or no round of training.
    """
    lineage, root = _read(model)
    if not lineage.rounds:
        raise DataError(model, expected="a trained student", got="no round", remedy="name work/STUDENT/ROUND/model")
    return model_card(lineage, _read_evaluation(lineage, root))


def _read_evaluation(lineage: Lineage, root: Path | None) -> Mapping[str, Any]:
    """Return the evaluation after the last round, empty where there is none."""
    if root is None or not lineage.rounds:
        return {}
    path = Layout(root).evaluation(f"{lineage.student}-{lineage.rounds[-1].id}")
    return read_json(path) if path.is_file() else {}


def _read(model: Path) -> tuple[Lineage, Path | None]:
    """Return the lineage of a model directory and the project that the directory is in."""
    lineage = read_lineage(model)
    if lineage is None:
        remedy = "name a model directory that this pipeline made"
        raise DataError(model, expected=f"a directory with {FILE}", got="none", remedy=remedy)
    return lineage, next((parent for parent in model.resolve().parents if (parent / "dvc.yaml").is_file()), None)


def read_sources(model: Path) -> tuple[Lineage, Costs, OutputRecord | None, str | None]:
    """Return what is known about a model directory, as the arguments of `describe_json`.

    Raises:
        DataError: The directory has no lineage, or a file of its project cannot be read.
    """
    lineage, root = _read(model)
    if root is None:
        return lineage, {}, None, None
    costs = {path.stem: read_json(path) for path in Layout(root).costs.glob("*.json")}
    record = trace(load_index(root), model.resolve().relative_to(root).as_posix())
    return lineage, costs, record, _read_evaluation(lineage, root).get("worse")


def describe_json(lineage: Lineage, costs: Costs, record: OutputRecord | None, worse: str | None) -> dict[str, Any]:
    """Return what is known about a model as plain values.

    Args:
        lineage: Its lineage.
        costs: The costs of its project.
        record: What dvc.lock says about the directory.
        worse: The warning about a student that training made worse, or worse in part.
    """
    described = {
        "costs": {round_.id: _costs_of(lineage, round_, costs) for round_ in lineage.rounds},
        "dvc_lock": asdict(record) if record else None,
        "warning": last_warning(lineage),
        "worse": worse,
    }
    return asdict(lineage) | described


def describe_text(lineage: Lineage, costs: Costs, record: OutputRecord | None, worse: str | None) -> str:
    """Return the runs of a model, the first one first, then dvc.lock's record and the warnings; see `describe_json`."""
    runs = describe_runs(lineage, costs)
    for run in runs:
        run["table"] = run["facts"] | {f"parameters.{name}": value for name, value in run["parameters"].items()}
    template = Path(__file__).with_name("lineage.txt.j2")
    warnings = [warning for warning in (last_warning(lineage), worse) if warning]
    return fill_template(template, runs=runs, record=record, warnings=warnings).rstrip("\n")


def describe_runs(lineage: Lineage, costs: Costs) -> list[dict[str, Any]]:
    """Return the runs of a student for templates, the first one first; the costs of earlier runs are unknown.

    Returns:
        Mappings with the keys `student`, `facts`, `parameters` (of the last round), `rounds` (a table with a header,
        empty before the first round), and `scores` (the segments of teacher scores by round). Values are texts.
    """
    return [
        {
            "student": run.student,
            "facts": _facts(run),
            "parameters": _flat(run.rounds[-1].parameters) if run.rounds else {},
            "rounds": _rounds(run, costs if run is lineage else {}),
            "scores": {round_.id: ", ".join(map(_scored, round_.scored)) for round_ in run.rounds},
        }
        for run in history(lineage)
    ]


def _facts(run: Lineage) -> dict[str, str]:
    """Return what is known about a run of a student, without its parameters and rounds, by title."""
    table = {"student": run.student or "none: this is a teacher", "teacher": _source(run.teacher)}
    if run.start:
        layers = f", layers {kept_layers(run)}" if run.layers else ""
        config = f", random weights with {run.config}" if run.config is not None else ""
        table["begins as"] = _source(run.start) + layers + config
    if run.tunings:
        tunings = [f"{tuning.model} for {tuning.parameters['steps']} steps" for tuning in run.tunings]
        table["tuned on references"] = ", ".join(tunings)
    if run.lora:
        table["LoRA adapter"] = _listed(run.lora)
    if run.rounds:
        last = run.rounds[-1]
        table["tokenizer"] = short(last.tokenizer)
        table["data"] = f"{last.task}: {_listed(last.settings)}"
        table["prompts"] = ", ".join(f"{round_.id} {short(round_.prompts)}" for round_ in run.rounds)
    return table


def _rounds(run: Lineage, costs: Costs) -> list[list[str]]:
    """Return a table with a header: the steps, tokens, teacher tokens, seconds and commit of each round."""
    rows = [["round", "steps", "tokens trained", "teacher tokens", "of them new", "seconds", "code"]]
    for round_ in run.rounds:
        cost = _costs_of(run, round_, costs)
        # Only the round's own scores count here, because all rounds share the fixed corpus.
        own = sum(part.positions for part in round_.scored if part.name != "corpus")
        score, train = cost["score"], cost["train"] or {}
        new = number_text(score["positions"] - score["positions_reused"] if score else None)
        seconds = [entry["seconds"] for entry in cost.values() if entry]
        spent = f"{sum(seconds):,.1f}" if seconds else "unknown"
        steps = f"{round_.first_step + 1}-{round_.first_step + round_.steps}"
        code = short(train.get("commit") or "unknown") + (", altered" if train.get("dirty") else "")
        rows.append([round_.id, steps, f"{round_.tokens:,}", f"{own:,}", new, spent, code])
    return rows if run.rounds else []


def _scored(segment: Scored) -> str:
    return f"{segment.name} {short(segment.segment)} ({segment.positions:,} positions)"


def _source(source: ModelSource) -> str:
    revision = f" at {source.revision}" if source.revision else ""
    return f"{source.model}{revision}, licence {source.license or 'unknown'}, fingerprint {short(source.fingerprint)}"


def _listed(value: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {item}" for name, item in _flat(value).items())


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return a nested mapping by dotted key; a list becomes its items with spaces between them."""
    flat: dict[str, str] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            flat |= _flat(item, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = " ".join(map(str, item)) if isinstance(item, list | tuple) else str(item)
    return flat


def _costs_of(run: Lineage, round_: Round, costs: Costs) -> dict[str, Any]:
    """Return the costs of the stages of a round by stage, None where they are unknown."""
    return {stage: costs.get(f"{run.student}-{round_.id}-{stage}") for stage in ("rollout", "score", "train")}
