"""Write the model card of a trained student: Hugging Face's front matter, and the lineage as text.

* The card is a function of the lineage and the metrics alone, so that DVC finds the same bytes again.
* The front matter contains only names that are on the hub, because the hub refuses others. The text has all names.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from pipeline.lineage.lineage import kept_layers, write_lineage
from pipeline.lineage.records import Lineage, Round
from pipeline.runtime.templates import fill_template

_METRICS = ("forward_kl", "reverse_kl")  # the metrics that every evaluation has, whatever the task


def write_round(model: Path, lineage: Lineage, trained: Round) -> None:
    """Write the lineage after a round beside the weights, for `stillroom lineage`, and the model card README.md."""
    after = replace(lineage, rounds=(*lineage.rounds, trained))
    write_lineage(model, after)
    (model / "README.md").write_text(model_card(after), encoding="utf-8")


def model_card(lineage: Lineage, metrics: Mapping[str, float] | None = None) -> str:
    """Return the card of a trained student; `metrics` come from its own evaluation."""
    assert lineage.student and lineage.start and lineage.rounds, "only a trained student has a card"
    text = fill_template(
        Path(__file__).with_name("model_card.md.j2"),
        front_matter=_front_matter(lineage, metrics or {}),
        lineage=lineage,
        start=lineage.start,
        layers=kept_layers(lineage),
        last=lineage.rounds[-1],
        metrics=metrics,
    )
    return text + "\n"


def _front_matter(lineage: Lineage, metrics: Mapping[str, float]) -> str:
    start, last = lineage.start or lineage.teacher, lineage.rounds[-1]
    # An adapter to a pruned or randomly initialised model does not fit the base on the hub.
    is_adapter = lineage.lora and not lineage.layers and lineage.config is None
    data = str(last.settings.get("data"))
    results = [
        EvalResult(
            task_type="text-generation",
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
        pipeline_tag="text-generation",
        tags=["stillroom", "distillation", "gkd", "on-policy"],
        metrics=list(metrics) or list(_METRICS),
        model_name=f"{lineage.student}-{last.id}" if results else None,
        eval_results=results or None,
    ).to_yaml()
