"""A lineage for tests, with whatever a test wants to be different."""

from typing import Any

from pipeline.lineage.records import FORMAT, Lineage, ModelSource, Round, Scored


def source(model: str = "teacher", **changes: Any) -> ModelSource:
    fields = {"model": model, "revision": None, "hub": False, "license": None, "fingerprint": f"{model}-print"}
    return ModelSource(**(fields | changes))


def one_round(id_: str = "r1", **changes: Any) -> Round:
    fields = {
        "id": id_,
        "first_step": 0,
        "steps": 4,
        "teacher": "teacher-print",
        "tokenizer": "tokenizer-print",
        "scorer": "scorer-print",
        "task": "gsm8k",
        "settings": {"data": "openai/gsm8k", "config": "main"},
        "hub_data": True,
        "prompts": "prompts-print",
        "parameters": {"seed": 0, "objective": {"temperature": 1.0}},
        "scored": (
            Scored(name="small/r1", segment="a" * 32, positions=50),
            Scored(name="corpus", segment="b", positions=9),
        ),
        "tokens": 1234,
        "read_tokens": 2345,
    }
    return Round(**(fields | changes))


def lineage(*rounds: Round, **changes: Any) -> Lineage:
    fields: dict[str, Any] = {"format": FORMAT, "student": "small", "teacher": source(), "start": source("base")}
    fields |= {"layers": (0, 2), "config": None, "rounds": rounds, "earlier": None}
    return Lineage(**(fields | changes))
