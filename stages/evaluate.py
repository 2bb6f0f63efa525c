"""Measure a checkpoint of a student against the teacher on held-out prompts, or the teacher alone: work/evaluations."""

from dataclasses import asdict
from functools import partial
from pathlib import Path

import click

from pipeline.engines.hf import HFSampler
from pipeline.evaluation import EvaluationParams, compare, complete, join, judge
from pipeline.params import lookup, section
from pipeline.rewards import mean_reward
from pipeline.tables import write_json, write_rows
from pipeline.tasks import find_task
from pipeline.text import decode, eos_ids, load_tokenizer, shared_vocab, token_texts
from schemas.comparison import COMPARISON
from stages.command import PARAMS, PROMPTS, TEACHER, cost, run
from stages.inputs import read_prompts


@click.command(help=__doc__)
@click.option("--student", help="None evaluates the teacher.")
@click.option("--checkpoint", default="model")
def main(student: str | None, checkpoint: str) -> None:
    p, seed = section(PARAMS, EvaluationParams, "evaluation"), lookup(PARAMS, "seed")
    weights = section(PARAMS, dict[str, float], "reward")
    task = find_task(lookup(PARAMS, "task", "name"))
    model = Path(f"work/{student}/{checkpoint}/model") if student else TEACHER
    out = Path(f"work/evaluations/{student}/{checkpoint}.json" if student else "work/evaluations/teacher.json")
    prompts = read_prompts(PROMPTS, "heldout")[: p.prompts]
    with cost(f"{student}-{checkpoint}-evaluate" if student else "teacher-evaluate") as entry:
        tokenizer = load_tokenizer(model)
        read, vocab = partial(decode, tokenizer), shared_vocab(tokenizer)
        tokens = partial(token_texts, tokenizer)
        sampler = HFSampler(model, precision=p.precision, vocab=vocab, eos_ids=eos_ids(tokenizer), seed=seed)
        name = f"{student} {checkpoint}" if student else "teacher"
        completions = complete(prompts, sampler, p, title=f"complete {name}")
        del sampler
        judged, sampled = (judge(task, prompts, some, read) for some in (completions.greedy, completions.sampled))
        metrics = task.metrics(judged) | {f"sampled_{task.headline}": task.metrics(sampled)[task.headline]}
        metrics |= {"eos_share": completions.eos_share}
        written = [(read(one.token_ids), len(one.token_ids), one.ended) for one in completions.sampled]
        metrics |= mean_reward(prompts, written, weights)
        if student:
            compared = compare(model, TEACHER, prompts, completions.sampled, p, vocab=vocab, title=f"compare {name}")
            metrics |= join(compared).means()
            pairs = list(zip(prompts, completions.sampled, compared, strict=True))[: p.shown]
            rows = [row for prompt, one, at in pairs for row in at.rows(prompt.prompt_id, one.token_ids, tokens)]
            write_rows(out.with_suffix(".parquet"), rows, COMPARISON)
        entry["tokens"] = completions.tokens
    texts = [{"prompt_id": prompt.prompt_id} | asdict(one) for prompt, one in zip(prompts, judged, strict=True)]
    positions = sum(len(one.token_ids) for one in completions.sampled)
    write_json(out, {"headline": task.headline, "metrics": metrics, "positions": positions, "texts": texts})


if __name__ == "__main__":
    run(main)
