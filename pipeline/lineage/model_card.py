"""Write the model card of a trained student: Hugging Face's front matter, and the lineage as text.

* The card is a function of the lineage and the metrics alone, so that DVC finds the same bytes again.
* The front matter contains only names that are on the hub, because the hub refuses others. The text has all names.
"""

import json
from collections.abc import Mapping

from huggingface_hub import EvalResult, ModelCardData

from pipeline.lineage.lineage import kept_layers
from pipeline.lineage.records import Lineage, ModelSource

_METRICS = ("forward_kl", "reverse_kl")  # the metrics that every evaluation has, whatever the task


def model_card(lineage: Lineage, metrics: Mapping[str, float] | None = None) -> str:
    """Return the card of a trained student; `metrics` come from its own evaluation."""
    assert lineage.student and lineage.start and lineage.rounds, "only a trained student has a card"
    metrics = metrics or {}
    return f"---\n{_front_matter(lineage, metrics)}\n---\n\n{_text(lineage, metrics)}"


def _front_matter(lineage: Lineage, metrics: Mapping[str, float]) -> str:
    start, last = lineage.start or lineage.teacher, lineage.rounds[-1]
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
        base_model_relation=_relation(lineage) if start.hub else None,
        datasets=[data] if last.hub_data else None,
        license=start.license,
        library_name="peft" if lineage.lora else "transformers",
        pipeline_tag="text-generation",
        tags=["stillroom", "distillation", "gkd", "on-policy"],
        metrics=list(metrics) or list(_METRICS),
        model_name=f"{lineage.student}-{last.id}" if results else None,
        eval_results=results or None,
    ).to_yaml()


def _text(lineage: Lineage, metrics: Mapping[str, float]) -> str:
    start, last = lineage.start or lineage.teacher, lineage.rounds[-1]
    steps, tokens = (sum(getattr(trained, name) for trained in lineage.rounds) for name in ("steps", "tokens"))
    lines = [
        f"# {lineage.student}, round {last.id}",
        "",
        f"A student of {_named(lineage.teacher)}, distilled on its own completions with the teacher's token-level",
        "feedback (GKD, [Agarwal et al., 2024](https://arxiv.org/abs/2306.13649)) by stillroom.",
        "",
        f"* Begins as {_named(start)}{_changes(lineage)}.",
        *([f"* A LoRA adapter to it, `{_json(lineage.lora)}`."] if lineage.lora else []),
        f"* Task: {last.task}, `{_json(last.settings)}`.",
        f"* {steps} optimizer steps in {len(lineage.rounds)} rounds; {tokens:,} tokens in the loss.",
        f"* Licence of the model it begins as: {start.license or 'unknown'}.",
    ]
    if lineage.earlier:
        lines.append(f"* It was a student before: {lineage.earlier.student} of {_named(lineage.earlier.teacher)}.")
    if metrics:
        lines += ["", "Measured on held-out prompts:", "", "| metric | value |", "| --- | ---: |"]
        lines += [f"| {name} | {value:.4f} |" for name, value in metrics.items()]
    lines += ["", "Parameters of the last round:", "", "```json", _json(last.parameters, indent=1), "```"]
    return "\n".join([*lines, "", "`stillroom.json` beside this file has all of it for programs."]) + "\n"


def _json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, sort_keys=True)


def _named(source: ModelSource) -> str:
    return f"`{source.model}`" + (f" at `{source.revision}`" if source.revision else "")


def _relation(lineage: Lineage) -> str:
    """Return the hub's word for the relation to the base; an adapter to a pruned model does not fit the hub's model."""
    return "adapter" if lineage.lora and not lineage.layers and lineage.config is None else "finetune"


def _changes(lineage: Lineage) -> str:
    if lineage.config is not None:
        return f" with random weights and `{_json(lineage.config)}`"
    return f" cut to layers {kept_layers(lineage)}" if lineage.layers else ""
