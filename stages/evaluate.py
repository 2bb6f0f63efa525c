"""Measure a checkpoint of a student against the teacher on held-out prompts, or the teacher alone.

In: a model directory, work/teacher and work/prompts. Out: work/evaluations/NAME.json with the metrics, their standard
errors and the greedy completions, and NAME.parquet with the token-by-token comparison of a student's first sampled
completions. NAME is STUDENT-ROUND, or `teacher`, which is compared with nothing.
"""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.core.files import read_prompts
from pipeline.evaluation.agreement import ModelPair, TokenComparison, compare, concatenate, mean_errors
from pipeline.evaluation.completions import EvaluationParams, complete, completion_metrics, cut_warning
from pipeline.models.tokenizer import completion_decoder, eos_ids, load_tokenizer, shared_vocab, token_texts
from pipeline.rollout.hf_sampler import HFSampler
from pipeline.runtime.files import write_json, write_rows
from pipeline.tasks import find_task
from schemas.comparison import COMPARISON
from stages._stage import StageContext, run, stage


@stage("{name}-evaluate", seed=int, evaluation=EvaluationParams, reward=dict[str, float], task=("task.name", str))
def main(ctx: StageContext, p: Any, name: str, model: Path) -> None:
    """Write the evaluation."""
    task, tokenizer, out = find_task(p.task), load_tokenizer(model), ctx.layout.evaluation(name)
    vocab, precision = shared_vocab(tokenizer), p.evaluation.precision
    prompts = read_prompts(ctx.layout.prompts, "heldout")[: p.evaluation.prompts]

    # No variable holds the sampler, so that its weights are freed before two models are loaded for the comparison.
    load_sampler = partial(HFSampler, model, precision=precision, vocab=vocab, eos_ids=eos_ids(tokenizer), seed=p.seed)
    completions = complete(prompts, load_sampler(), p.evaluation, title=f"complete {name}")
    ctx.cost["tokens"] = completions.tokens

    if warning := cut_warning(completions, p.evaluation.max_new_tokens):
        ctx.warn(f"{name}: {warning}")
    measured = completion_metrics(task, prompts, completions, completion_decoder(tokenizer), p.reward)
    metrics, errors = measured.metrics, measured.errors
    rows: list[TokenComparison] = []
    if name != "teacher":
        models = ModelPair(student=model, teacher=ctx.layout.teacher, vocab_size=vocab)
        agreements = compare(models, prompts, completions.sampled, p.evaluation, title=f"compare {name}")
        metrics |= concatenate(agreements).means()
        errors |= mean_errors(agreements)
        compared = list(zip(prompts, completions.sampled, agreements, strict=True))
        for prompt, sample, agreement in compared[: p.evaluation.recorded_prompts]:
            rows += agreement.rows(prompt.prompt_id, sample.token_ids, partial(token_texts, tokenizer))
    write_rows(out.with_suffix(".parquet"), rows, COMPARISON)
    texts = [
        {"prompt_id": prompt.prompt_id} | asdict(judged)
        for prompt, judged in zip(prompts, measured.greedy, strict=True)
    ]
    positions = sum(len(sample.token_ids) for sample in completions.sampled)
    headline = {"headline": task.headline, "metrics": metrics, "errors": errors}
    write_json(out, headline | {"positions": positions, "texts": texts})


if __name__ == "__main__":
    run(main)
