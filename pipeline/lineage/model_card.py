"""Write the model card of a trained student: Hugging Face's front matter, and the lineage as text.

* The card is a function of the lineage and the metrics alone, so that DVC finds the same bytes again.
* The front matter contains only names that are on the hub, because the hub refuses others.
* The card contains no path of a machine: a local model or file goes by the last part of its path.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from pipeline.lineage.lineage import kept_layers, write_lineage
from pipeline.lineage.records import Lineage, ModelSource, Round
from pipeline.runtime.templates import fill_template

_ENCODER_DECODER = "AutoModelForSeq2SeqLM"
_ENCODER_DECODER_TAGS = {
    "translation": "translation",
    "summarisation": "summarization",
    "docstrings": "summarization",
}
_PATH = re.compile(r"(~|\.{1,2}|[A-Za-z]:)?[\\/]\S")
_METRICS = ("forward_kl", "reverse_kl")  # the metrics that every evaluation has, whatever the task


def write_round(model: Path, lineage: Lineage, trained: Round) -> None:
    """Write the lineage after a round beside the weights, for `stillroom lineage`, and the model card README.md."""
    after = replace(lineage, rounds=(*lineage.rounds, trained))
    write_lineage(model, after)
    (model / "README.md").write_text(model_card(after), encoding="utf-8")


def model_card(lineage: Lineage, evaluation: Mapping[str, Any] | None = None) -> str:
    """Return the card of a trained student, with what its own evaluation says: metrics, errors, and a warning."""
    assert lineage.student and lineage.start and lineage.rounds, "only a trained student has a card"
    last, measured = lineage.rounds[-1], evaluation or {}
    metrics = {name: value for name, value in measured.get("metrics", {}).items() if isinstance(value, int | float)}
    text = fill_template(
        Path(__file__).with_name("model_card.md.j2"),
        front_matter=_front_matter(lineage, metrics),
        lineage=lineage,
        start=lineage.start,
        name=_public_name,
        settings=_public(last.settings if last.hub_data else last.settings | _data_name(last)),
        auto_class=_auto_class(lineage),
        layers=kept_layers(lineage),
        last=last,
        metrics=metrics,
        errors=measured.get("errors", {}),
        worse=measured.get("worse"),
    )
    return text + "\n"


def _front_matter(lineage: Lineage, metrics: Mapping[str, float]) -> str:
    start, last = lineage.start or lineage.teacher, lineage.rounds[-1]
    # An adapter to a pruned or randomly initialised model does not fit the base on the hub.
    is_adapter = lineage.lora and not lineage.layers and lineage.config is None
    data = str(last.settings.get("data"))
    results = [
        EvalResult(
            task_type=_pipeline_tag(lineage),
            dataset_type=data if last.hub_data else last.task,
            dataset_name=f"{last.task}, held out",
            metric_type=metric,
            metric_value=value,
        )
        for metric, value in metrics.items()
    ]
    return ModelCardData(
        base_model=start.model if start.hub else None,
        base_model_relation=("adapter" if is_adapter else "finetune") if start.hub else None,
        datasets=[data] if last.hub_data else None,
        license=start.license,
        library_name="peft" if lineage.lora else "transformers",
        pipeline_tag=_pipeline_tag(lineage),
        tags=["stillroom", "distillation", "gkd", "on-policy"],
        metrics=list(metrics) or list(_METRICS),
        model_name=f"{lineage.student}-{last.id}" if results else None,
        eval_results=results or None,
    ).to_yaml()


def _auto_class(lineage: Lineage) -> str:
    return (lineage.start or lineage.teacher).auto_class


def _pipeline_tag(lineage: Lineage) -> str:
    """Return the hub's name for what the model does; decoder-only models generate text, whatever the task."""
    if _auto_class(lineage) != _ENCODER_DECODER:
        return "text-generation"
    return _ENCODER_DECODER_TAGS.get(lineage.rounds[-1].task, "text2text-generation")


def _public_name(source: ModelSource) -> str:
    """Return the name of a model without the directories of this machine."""
    everywhere = source.hub or source.model.startswith(("package:", "fresh:"))
    return source.model if everywhere else _last_part(source.model)


def _data_name(round_: Round) -> dict[str, object]:
    data = round_.settings.get("data")
    return {"data": _last_part(data)} if isinstance(data, str) else {}


def _public(value: Any) -> Any:
    """Return settings in which a path is its last part."""
    if isinstance(value, dict):
        return {key: _public(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_public(item) for item in value]
    return _last_part(value) if isinstance(value, str) and _PATH.match(value) else value


def _last_part(path: str) -> str:
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]
