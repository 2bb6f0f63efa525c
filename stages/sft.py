"""Fine-tune a model on the references of the training prompts, before it teaches or learns.

In: a model directory, work/prompts, and the section sft.NAME of params.yaml. Out: the model in the precision of the
original, and a log with one row per step. NAME is `teacher`, or a student.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.checkpoints.pretrained import stored_dtype
from pipeline.core.files import read_prompts
from pipeline.core.hashing import model_fingerprint
from pipeline.core.types import reference_rollouts
from pipeline.lineage.lineage import add_sft, read_lineage, write_lineage
from pipeline.lineage.records import Tuning
from pipeline.models.context import context_of
from pipeline.models.tokenizer import load_tokenizer, save_tokenizer, shared_vocab
from pipeline.runtime.errors import DataError
from pipeline.training.log import Row
from pipeline.training.round import CONVERTED_MODEL, LOG, train_round
from pipeline.training.run import TrainingData, TrainingRun
from pipeline.training.sft import SftParams, cross_entropy
from stages._stage import StageContext, run, stage


@stage(
    "{name}-sft",
    seed=int,
    sft=("sft.{name}", SftParams),
    chunk_tokens=("objective.chunk_tokens", int),
    task=("task.name", str),
)
def main(ctx: StageContext, p: Any, name: str, model: Path, out: Path, log: Path) -> None:
    """Write the fine-tuned model."""
    prompts, context = read_prompts(ctx.layout.prompts, "train"), context_of(model)
    if p.sft.references is not None and p.sft.references > len(prompts):
        where, expected, remedy = f"sft.{name}.references", f"at most the {len(prompts)} training prompts", "lower it"
        raise DataError(where, expected=expected, got=p.sft.references, remedy=remedy)
    rollouts = reference_rollouts(prompts[: p.sft.references])
    for rollout in rollouts:
        context.check(len(rollout.prompt_ids), len(rollout.completion_ids), where=f"sft.{name}")
    tokenizer, lineage = load_tokenizer(model), read_lineage(model)
    training = TrainingRun(
        student=name,
        round_id="sft",
        steps=range(p.sft.steps),
        start=model,
        objective=cross_entropy(p.chunk_tokens),
        optimizer=p.sft.optimizer,
        batches=p.sft.batches,
        seed=p.seed,
        vocab_size=shared_vocab(tokenizer),
        saved_dtype=stored_dtype(model),
    )
    data = TrainingData.of_references(rollouts, p.sft.batches)

    def finish(tuned: Path, _: list[Row]) -> None:
        save_tokenizer(tokenizer, tuned)
        if lineage:
            tuning = Tuning(
                model=name,
                before=model_fingerprint(model),
                after=model_fingerprint(tuned),
                task=p.task,
                references=data.identity,
                parameters=asdict(p.sft) | {"optimizer": p.sft.optimizer.identity()},
            )
            write_lineage(tuned, add_sft(lineage, tuning))

    rows = train_round(training, data, {CONVERTED_MODEL: out, LOG: log}, finish)
    ctx.cost["tokens"] = sum(row["read_tokens"] for row in rows)


if __name__ == "__main__":
    run(main)
