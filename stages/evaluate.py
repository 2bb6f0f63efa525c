"""Measure a checkpoint of a student against the teacher on held-out prompts, or the teacher alone.

In: a model directory, work/teacher, work/prompts, the teacher's evaluation, and that of the student before training.
Out, in work/evaluations: NAME.json with the metrics, their standard errors, their changes since before training and the
greedy completions; prompts/NAME.parquet with what each prompt adds to a metric; NAME.parquet with the token-by-token
comparison of a student's first sampled completions; verdicts/NAME.json, which says whether training made the student
worse, more than in part. NAME is STUDENT-ROUND, or `teacher`, which is compared with nothing.
"""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click

from pipeline.core.files import read_prompts
from pipeline.evaluation.agreement import ModelPair, TokenComparison, agreement_metrics, compare_and_read
from pipeline.evaluation.completions import EvaluationParams, complete, completion_metrics, cut_warning
from pipeline.evaluation.measurements import (
    Change,
    Measurement,
    Measurements,
    change_of,
    of_ratio,
    read_measurements,
    write_measurements,
)
from pipeline.evaluation.references import references_of, teacher_reference_nll
from pipeline.evaluation.verdict import Verdict, judge_student
from pipeline.lineage.lineage import read_lineage
from pipeline.models.tokenizer import completion_decoder, eos_ids, load_tokenizer, shared_vocab, token_texts
from pipeline.rollout.hf_sampler import HFSampler
from pipeline.runtime.files import write_json, write_rows
from pipeline.tasks import find_task
from schemas.comparison import COMPARISON
from stages._stage import StageContext, Tracked, run, stage

# The metrics of a student that equals its teacher.
_AT_TEACHER = {"forward_kl": 0.0, "reverse_kl": 0.0, "top1_agreement": 1.0, "teacher_rouge_l": 1.0}


@stage(
    "{name}-evaluate",
    seed=int,
    evaluation=Tracked(key="evaluation", kind=EvaluationParams, untracked=("stop_if_worse",)),
    reward=dict[str, float],
    task=("task.name", str),
)
def main(ctx: StageContext, p: Any, name: str, model: Path) -> None:
    """Write the evaluation."""
    task, tokenizer, out = find_task(p.task), load_tokenizer(model), ctx.layout.evaluation(name)
    vocab, precision = shared_vocab(tokenizer), p.evaluation.precision
    prompts = read_prompts(ctx.layout.prompts, "heldout")[: p.evaluation.prompts]
    student, _, round_id = name.partition("-")
    teacher_texts, of_teacher = None, Measurements()
    if student != "teacher":
        teacher_texts, of_teacher = read_measurements(ctx.layout.prompt_metrics("teacher"))

    # No variable holds the sampler, so that its weights are freed before two models are loaded for the comparison.
    load_sampler = partial(HFSampler, model, precision=precision, vocab=vocab, eos_ids=eos_ids(tokenizer), seed=p.seed)
    completions = complete(prompts, load_sampler(), p.evaluation, title=f"complete {name}")
    ctx.cost["tokens"] = completions.tokens

    if warning := cut_warning(completions, p.evaluation.max_new_tokens):
        ctx.warn(f"{name}: {warning}")
    decode = completion_decoder(tokenizer)
    measured, greedy = completion_metrics(task, prompts, completions, decode, p.reward, teacher_texts)
    rows: list[TokenComparison] = []
    if student == "teacher":
        title = f"read references {name}"
        nll = teacher_reference_nll(model, prompts, p.evaluation, vocab_size=vocab, title=title)
        measured["reference_nll"] = nll
    else:
        models = ModelPair(student=model, teacher=ctx.layout.teacher, vocab_size=vocab)
        references = references_of(prompts, p.evaluation)
        agreements, nats = compare_and_read(
            models, prompts, completions.sampled, references, p.evaluation, title=f"compare {name}"
        )
        measured |= agreement_metrics(prompts, agreements)
        measured["reference_nll"] = of_ratio(prompts, nats, [len(reference.token_ids) for reference in references])
        compared = list(zip(prompts, completions.sampled, agreements, strict=True))
        for prompt, sample, agreement in compared[: p.evaluation.recorded_prompts]:
            rows += agreement.rows(prompt.prompt_id, sample.token_ids, partial(token_texts, tokenizer))
    changes: dict[str, Change] = {}
    verdict = Verdict(worse=False)
    if round_id not in ("", "init"):
        _, before = read_measurements(ctx.layout.prompt_metrics(f"{student}-init"))
        changes = {key: change_of(before[key], after, _goal(key, of_teacher)) for key, after in measured.items()}
        lineage = read_lineage(model)
        assert lineage and lineage.rounds, "a checkpoint after a round has a lineage"
        trained = lineage.rounds[-1]  # the last round that took a step
        verdict = judge_student(f"{student} {trained.id}", task.headline, before, changes, trained.parameters)
        if verdict.message:
            click.echo(f"warning: {verdict.message}")
    write_rows(out.with_suffix(".parquet"), rows, COMPARISON)
    write_measurements(ctx.layout.prompt_metrics(name), prompts, [judged.text for judged in greedy], measured)
    write_json(
        out,
        {
            "headline": task.headline,
            "metrics": {key: measurement.value for key, measurement in measured.items()},
            "errors": {key: error for key, m in measured.items() if (error := m.error) is not None},
            "changes": {key: asdict(change) for key, change in changes.items()},
            "worse": verdict.message,
            "positions": sum(len(sample.token_ids) for sample in completions.sampled),
            "texts": [{"prompt_id": q.prompt_id} | asdict(text) for q, text in zip(prompts, greedy, strict=True)],
        },
    )
    # The later rounds of a schedule depend on this file, so it holds nothing that differs between sound rounds.
    write_json(ctx.layout.verdict(name), {"worse": verdict.worse})


def _goal(key: str, of_teacher: Mapping[str, Measurement]) -> Measurement | float | None:
    return of_teacher.get(key, _AT_TEACHER.get(key))


if __name__ == "__main__":
    run(main)
