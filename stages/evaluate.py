"""Measure a checkpoint of a student against the teacher on held-out prompts, or the teacher alone: work/evaluations."""

from dataclasses import asdict
from functools import partial
from pathlib import Path

import click

from pipeline.core.files import read_prompts
from pipeline.evaluation.agreement import TokenComparison, compare, join
from pipeline.evaluation.completions import EvaluationParams, complete, judge
from pipeline.metrics.rewards import mean_reward
from pipeline.models.tokenizer import decode, eos_ids, load_tokenizer, shared_vocab, token_texts
from pipeline.rollout.hf_sampler import HFSampler
from pipeline.runtime.config import lookup, section
from pipeline.runtime.files import write_json, write_rows
from pipeline.runtime.layout import EVALUATIONS, PARAMS, PROMPTS, TEACHER
from pipeline.tasks import find_task
from schemas.comparison import COMPARISON
from stages._stage import cost, run


@click.command(help=__doc__)
@click.option("--name", required=True, help="STUDENT-ROUND, or `teacher`, which is compared with nothing.")
@click.option("--model", type=Path, required=True)
def main(name: str, model: Path) -> None:
    p, seed = section(PARAMS, EvaluationParams, "evaluation"), lookup(PARAMS, "seed")
    weights = section(PARAMS, dict[str, float], "reward")
    task = find_task(lookup(PARAMS, "task", "name"))
    out = EVALUATIONS / f"{name}.json"
    prompts = read_prompts(PROMPTS, "heldout")[: p.prompts]
    with cost(f"{name}-evaluate") as entry:
        tokenizer = load_tokenizer(model)
        read, vocab = partial(decode, tokenizer), shared_vocab(tokenizer)
        tokens = partial(token_texts, tokenizer)
        sampler = HFSampler(model, precision=p.precision, vocab=vocab, eos_ids=eos_ids(tokenizer), seed=seed)
        completions = complete(prompts, sampler, p, title=f"complete {name}")
        del sampler
        judged, sampled = (judge(task, prompts, some, read) for some in (completions.greedy, completions.sampled))
        metrics = task.metrics(judged) | {f"sampled_{task.headline}": task.metrics(sampled)[task.headline]}
        metrics |= {"eos_share": completions.eos_share}
        written = [(read(one.token_ids), len(one.token_ids), one.finished) for one in completions.sampled]
        metrics |= mean_reward(prompts, written, weights)
        rows: list[TokenComparison] = []
        if name != "teacher":
            compared = compare(model, TEACHER, prompts, completions.sampled, p, vocab=vocab, title=f"compare {name}")
            metrics |= join(compared).means()
            pairs = list(zip(prompts, completions.sampled, compared, strict=True))[: p.recorded_prompts]
            rows = [row for prompt, one, at in pairs for row in at.rows(prompt.prompt_id, one.token_ids, tokens)]
        write_rows(out.with_suffix(".parquet"), rows, COMPARISON)
        entry["tokens"] = completions.tokens
    texts = [{"prompt_id": prompt.prompt_id} | asdict(one) for prompt, one in zip(prompts, judged, strict=True)]
    positions = sum(len(one.token_ids) for one in completions.sampled)
    write_json(out, {"headline": task.headline, "metrics": metrics, "positions": positions, "texts": texts})


if __name__ == "__main__":
    run(main)
