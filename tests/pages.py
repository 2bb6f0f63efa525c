"""A synthetic run for the report, with the size and shape of a real one and with texts that look like HTML."""

import math
from collections.abc import Sequence
from typing import Any

from pipeline.lineage.records import Lineage
from pipeline.report.page.page import Run, run_page
from tests.factories import lineage, lineage_round, model_source

NASTY = "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 1'>"
CHECKPOINTS = ["init", "r1", "r2", "r3"]
WORDS = [" The", " graph", " has", " a", " node", ",", " <b>", "\n", " é", NASTY, " list", "."]


def metrics(students: Sequence[str] = ("small",), *, closeness: float = 1.0) -> dict[str, Any]:
    """Return metrics.json; a greater `closeness` is a better run."""
    return {
        "headline": "rouge_l",
        "teacher": {"rouge_l": 0.257, "eos_share": 0.6},
        "students": {name: _student(closeness + index / 3) for index, name in enumerate(students)},
        "store": {"positions": 5656, "payload_bytes": 469448, "bytes_per_position": 83.0, "reused_share": 0.25},
        "errors": {"teacher": {"rouge_l": 0.04}}
        | {name: {"before": {"forward_kl": 0.09}, CHECKPOINTS[-1]: {"forward_kl": 0.05}} for name in students},
        "changes": {
            name: {
                "forward_kl": {"difference": -1.119, "error": 0.07, "goal": 0.0, "share": 0.528, "share_error": 0.04},
                "rouge_l": {"difference": 0.074, "error": 0.02, "goal": 0.257, "share": 0.528, "share_error": 0.1},
            }
            for name in students
        },
        "worse": dict.fromkeys(students),
        "cost": {
            "score": {"runs": 4, "tokens": 11009, "seconds": 72.5},
            "train": {"runs": 3, "tokens": 19079, "seconds": 108.8},
        },
    }


def _student(closeness: float) -> dict[str, Any]:
    rows = [_quality(math.exp(-index * closeness / 4)) for index in range(len(CHECKPOINTS))]
    rounds = [
        {"id": id_, "step": 10 * index, "scored_positions": 1414 * (index + 1), **rows[index]}
        for index, id_ in enumerate(CHECKPOINTS)
        if index
    ]
    return {"before": rows[0], "after": rows[-1], "rounds": rounds}


def _quality(far: float) -> dict[str, float]:
    return {
        "forward_kl": 2.12 * far,
        "reverse_kl": 2.29 * far,
        "top1_agreement": 1 - 0.7 * far,
        "rouge_l": 0.257 - 0.14 * far,
        "eos_share": 0.6 - 0.6 * far,
        "wisdom_of_crowds": 3.0 - far,
    }


def view_rows(students: Sequence[str] = ("small",)) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of the run's views."""
    places = [("", "corpus"), *((name, id_) for name in students for id_ in CHECKPOINTS[1:])]
    spread = {"mean": 0.3, "p50": 0.2, "p90": 0.6}
    return {
        "runs": [_step(name, step) for name in students for step in range(1, 31)],
        "costs": [_cost("prepare", "", ""), *(_cost(kind, *at) for at in places for kind in ("score", "train"))],
        "tails": [
            {"student": name, "round": id_, "source": "student", "measure": measure} | spread
            for name, id_ in places
            for measure in ("tail", "entropy")
        ],
        "segments": [_segment(*at) for at in places],
        "tokens": [
            _token(name, id_, prompt, position)
            for name in students
            for id_ in ("init", "r3")
            for prompt in range(6)
            for position in range(30)
        ],
        "prompts": [
            {
                "prompt_id": f"networkx.case{n}",
                "prompt_text": f"Summarise {n}: {NASTY}",
                "reference_text": "Ends it.",
            }
            for n in range(6)
        ],
    }


def _step(student: str, step: int) -> dict[str, Any]:
    loss = 3 / step**0.3 + 0.1 * math.sin(step)
    row = {"student": student, "round": f"r{(step + 9) // 10}", "step": step, "loss": loss, "grad_norm": 5 / step}
    return row | {
        "staleness_kl": 0.01 * (step % 10),
        "reward": None if step < 11 else 0.1 * step,
        "new_measure": step / 7,
    }


def _cost(stage: str, student: str, round_id: str) -> dict[str, Any]:
    row: dict[str, Any] = {"stage": stage, "student": student, "round": round_id, "tokens": 4000, "seconds": 31.5}
    scored = {"positions": 1414, "positions_reused": 350, "payload_bytes": 117362} if stage == "score" else {}
    return row | {"positions": None, "positions_reused": None, "payload_bytes": None} | scored


def _segment(student: str, round_id: str) -> dict[str, Any]:
    row = {"student": student, "round": round_id, "scorer": "ab" * 16, "teacher": "cd" * 16, "tokenizer": "ef" * 16}
    row |= {"engine": "transformers", "dtype": "torch.float32", "codec": "sqrt8", "sequences": 40, "positions": 1414}
    row |= {"head_entries": 35000, "draws": 9000, "union_entries": 3000, "size_bytes": 117362}
    return row | {"measured_positions": 500, "error_nats": 0.0009}


def _token(student: str, round_id: str, prompt: int, position: int) -> dict[str, Any]:
    """Return a token; after training, the last prompt has the worst mean and the second has the worst single token."""
    far = (1 + prompt) * (0.2 + position % 7 / 7) * (0.25 if round_id == "r3" else 1.0)
    far = 9.0 if (prompt, position, round_id) == (1, 3, "r3") else far
    words = [WORDS[(prompt + position + place) % len(WORDS)] for place in range(5)]
    own = words if position % 3 else words[::-1]
    row = {"student": student, "round": round_id, "prompt_id": f"networkx.case{prompt}", "position": position}
    row |= {"token": words[0], "forward_kl": far, "reverse_kl": far / 2, "teacher_tokens": words, "student_tokens": own}
    return row | {"teacher_p": [0.5, 0.2, 0.1, 0.05, 0.01], "student_p": [0.4, 0.3, 0.1, 0.1, 0.05]}


def lineages(students: Sequence[str] = ("small",)) -> list[Lineage]:
    """Return the lineages of the students after their last round; the teacher's name looks like HTML."""
    rounds = [lineage_round(id_, first_step=10 * n, steps=10) for n, id_ in enumerate(CHECKPOINTS[1:])]
    return [
        lineage(*rounds, student=name, teacher=model_source(NASTY, fingerprint="teacher-print")) for name in students
    ]


def costs() -> dict[str, Any]:
    """Return the part of work/costs that a lineage needs."""
    score = {"seconds": 2.0, "tokens": 9, "positions": 50, "positions_reused": 20}
    train = {"seconds": 4.0, "tokens": 5, "commit": "c" * 40, "dirty": True}
    return {f"small-{id_}-{kind}": cost for id_ in CHECKPOINTS for kind, cost in (("score", score), ("train", train))}


def page(students: Sequence[str] = ("small",), **changes: Any) -> str:
    """Return the page of such a run, with changes to its content."""
    content: dict[str, Any] = {
        "title": "stillroom: docstrings",
        "metrics": metrics(students),
        "views": view_rows(students),
        "last_steps": {id_: 10 * index for index, id_ in enumerate(CHECKPOINTS) if index},
        "lineages": lineages(students),
        "costs": costs(),
        "max_staleness": None,
        "params": f"seed: 0\nname: {NASTY}\n",
    }
    return run_page(Run(**(content | changes)))
