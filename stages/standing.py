"""The files behind `stillroom status`."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.lockfile import read_lock
from pipeline.params import lookup, read_yaml
from pipeline.report import markdown
from pipeline.standing import KINDS, Job, jobs, with_seconds, with_states
from pipeline.tables import read_json
from stages.command import COSTS, PARAMS
from stages.needs import needs

_OPEN = ("open", "again")


def standing() -> tuple[list[Job], dict[str, Any]]:
    """Every stage with its state, and the forecast for those that are left."""
    students, document = lookup(PARAMS, "students"), read_yaml(Path("rounds.yaml"))
    rounds = document["rounds"]
    costs = {one.stem: read_json(one) for one in COSTS.glob("*.json")}
    asked = {one.name.replace(" ", "-") + "-score": one for one in needs()}
    here = with_states(jobs(students, rounds, document["tuned"]), Path(), read_lock(Path()))
    found = with_seconds(here, costs, {name: one.seconds for name, one in asked.items()})
    left = [one for one in found if one.state in _OPEN]
    scores = [asked[one.name] for one in left if one.name in asked]
    trained, size = sum(one.kind == "train" for one in left), _round_bytes(students, rounds)
    return found, {
        "stages": len(left),
        "seconds": _total([one.seconds for one in left]),
        "teacher_positions": sum(one.positions for one in scores),
        "store_bytes": _total([one.bytes for one in scores]),
        "cache_bytes": 0 if not trained else size and trained * size,
    }


def as_text(found: list[Job], left: dict[str, Any]) -> str:
    """A row a student and round, and the rest in two lines."""
    by_name = {one.name: one for one in found}
    shared = [f"{one.name} {one.state}" for one in found if one.student is None]
    rows = [["student", "round", *KINDS]]
    for student, round_ in dict.fromkeys((one.student, one.round) for one in found if one.student):
        cells = [by_name.get(f"{student}-{round_}-{kind}") for kind in KINDS]
        rows.append([str(student), str(round_), *(one.state if one else "" for one in cells)])
    lines = ["shared: " + ", ".join(shared), "", *markdown(rows), ""]
    if not left["stages"]:
        return "\n".join([*lines, "all stages are done"])
    if waiting := sum(one.state == "waits" for one in found):
        lines.append(f"{waiting} wait: they run again where what comes before them comes out differently")
    seconds, store = _figure(left["seconds"], "s"), _figure(left["store_bytes"], "bytes")
    lines.append(f"left: {left['stages']} of {len(found)} stages, about {seconds} inside them (from work/costs)")
    lines.append(
        f"the teacher is asked about {left['teacher_positions']:,} positions, {store} in the store; "
        f"students and optimizers take {_figure(left['cache_bytes'], 'bytes')} in DVC's cache"
    )
    return "\n".join(lines)


def to_json(found: list[Job], left: dict[str, Any]) -> dict[str, Any]:
    """For programs."""
    return {"stages": [asdict(one) for one in found], "left": left}


def _round_bytes(students: list[str], rounds: list[dict[str, Any]]) -> int | None:
    """What the latest round that is here takes on disk: its student and its optimizer."""
    for one in reversed(rounds):
        for student in students:
            home = Path(f"work/{student}/{one['id']}")
            if (home / "model").is_dir() and (home / "optimizer.pt").is_file():
                files = [*(home / "model").rglob("*"), home / "optimizer.pt"]
                return sum(file.stat().st_size for file in files if file.is_file())
    return None


def _total(values: list[float | None] | list[int | None]) -> float | None:
    known = [one for one in values if one is not None]
    return sum(known) if len(known) == len(values) else None


def _figure(value: float | None, unit: str) -> str:
    return f"an unknown number of {unit}" if value is None else f"{value:,.0f} {unit}"
