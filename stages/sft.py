"""Tune a model on the references of the training prompts, by the parameters sft.NAME, before it teaches or learns."""

import shutil
from dataclasses import asdict
from pathlib import Path

import click

from pipeline.checkpoints.pretrained import stored_dtype
from pipeline.core.files import read_prompts
from pipeline.core.hashing import digest, model_fingerprint, tree_digest
from pipeline.core.types import reference_rollouts
from pipeline.lineage.lineage import add_sft, read_lineage, write_lineage
from pipeline.lineage.records import Tuning
from pipeline.models import language_model as lm
from pipeline.models.context import context_of
from pipeline.models.tokenizer import load_tokenizer, shared_vocab
from pipeline.runtime.config import lookup, section
from pipeline.runtime.layout import PARAMS, PROMPTS
from pipeline.runtime.resume import DONE, resumable, whole_directory
from pipeline.training.batches import iter_batches, planned_tokens
from pipeline.training.log import read_log
from pipeline.training.loop import checkpoints, open_run, train
from pipeline.training.sft import SftParams, cross_entropy, plan_references
from stages._stage import cost, run


@click.command(help=__doc__)
@click.option("--name", required=True, help="teacher, or a student.")
@click.option("--model", type=Path, required=True)
@click.option("--out", type=Path, required=True)
@click.option("--log", type=Path, required=True)
def main(name: str, model: Path, out: Path, log: Path) -> None:
    tune(name, model, out, log)


def tune(name: str, model: Path, out: Path, log: Path) -> None:
    """The model at `model`, tuned, to `out`, in the precision that it came in; a row a step to `log`."""
    p, seed = section(PARAMS, SftParams, "sft", name), lookup(PARAMS, "seed")
    objective = cross_entropy(lookup(PARAMS, "objective", "chunk_tokens"))
    rollouts = reference_rollouts(read_prompts(PROMPTS, "train"))
    texts = [(one.prompt_ids, one.completion_ids) for one in rollouts]
    context = context_of(model)
    for prompt, completion in texts:
        context.check(len(prompt), len(completion), where=f"sft.{name}")
    tokenizer, key = load_tokenizer(model), (seed, name, "sft")
    inputs = digest(asdict(p), asdict(objective), key, tree_digest(model), texts)
    with cost(f"{name}-sft") as entry, resumable({"model": out, "train.csv": log}, inputs) as scratch:
        if not (scratch / DONE).is_dir():
            labels = {"student": name, "round": "sft"}
            tuning, state, at = open_run(scratch, model, None, p.optimizer, labels=labels, first_step=0)
            planned = plan_references(rollouts, p, key=key)[at:]
            train(
                tuning,
                iter_batches(planned, temperature=1.0, column=0),
                objective,
                p.optimizer,
                state,
                vocab=shared_vocab(tokenizer),
                steps=range(at, p.steps),
                key=key,
                scratch=scratch,
                title=f"sft {name}",
                total_tokens=planned_tokens(planned),
                behaviour_temperature=None,
                max_staleness=None,
            )
            with whole_directory(scratch / DONE) as done:
                lm.save_model(state.published(tuning).to(stored_dtype(model)), done / "model")
                tokenizer.save_pretrained(done / "model")
                shutil.copy(checkpoints(scratch)[-1] / "train.csv", done)
                _write_lineage(name, model, done / "model", p, digest(texts))
        entry["tokens"] = sum(row["read_tokens"] for row in read_log(scratch / DONE / "train.csv"))


def _write_lineage(name: str, model: Path, made: Path, p: SftParams, prompts: str) -> None:
    if lineage := read_lineage(model):
        one = Tuning(
            model=name,
            before=model_fingerprint(model),
            after=model_fingerprint(made),
            task=lookup(PARAMS, "task", "name"),
            references=prompts,
            parameters=asdict(p),
        )
        write_lineage(made, add_sft(lineage, one))


if __name__ == "__main__":
    run(main)
