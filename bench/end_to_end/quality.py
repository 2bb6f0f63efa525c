"""Measure how fast a student approaches its teacher: held-out KL by time and teacher tokens, beside a trainer of TRL.

    python -m bench.end_to_end.quality --json FILE
    python -m bench.end_to_end.quality --steps 32 --measure 32 --heldout 24 --completions 6 --seeds 3 \
        --configuration 16x1x4 --ema-decay 0.9 --entries larger --json FILE    # an hour; docs/results.md, "The goal"

Every row trains the same layers of the teacher on nothing but its own rollouts, with the same training prompts, batch
size, learning rate and seed. Rows of this pipeline run its stages (`bench.end_to_end.job`); a configuration
EVERYxPASSESxSAMPLES sets the steps between new rollouts, the passes over them, and the rollouts per prompt. Rows of
TRL have a live teacher (`bench.end_to_end.trl_trainers`); they need `trl` (`pip install --no-deps trl==1.16.0`).

- KL is dense, in nats per token, on completions that the student samples for held-out prompts. Its standard error is
  the error of this sample of prompts and completions, not of training.
- With the linear schedule only the last measurement of a row is of a finished run. With the constant schedule every
  measurement is, with the noise of its last steps; `--ema-decay` averages this noise out of this pipeline's rows, and
  out of TRL's rows that are named so.
- Each run of TRL and each stage of this pipeline runs in a subprocess, whose peak of resident memory is reported (the
  largest of a run's stages). KL is measured on saved checkpoints, off the clock.
- Seconds contain loading models, hashing and checkpoints, and no imports.

Run the benchmark in the directory of a finished job, whose teacher and prompts it uses (work/).
"""

import itertools
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

import click
import numpy as np

from bench.clock import CLOCKS
from bench.end_to_end.job import (
    Run,
    Spent,
    initialise_student,
    job,
    make_corpus,
    merged,
    run_round,
    run_stage_in_subprocess,
    seconds_of,
    tokens_of,
)
from bench.end_to_end.setting import Setting
from bench.end_to_end.trl_trainers import BETAS, TRAINERS, averages, has_trl, run_trl
from bench.output import Row, show, write_json
from bench.subprocess_run import peak_bytes, run_in_subprocess
from pipeline.core.files import read_prompts
from pipeline.evaluation.agreement import ModelPair, compare, concatenate
from pipeline.evaluation.completions import EvaluationParams, sampling_alone
from pipeline.evaluation.measurements import of_ratio
from pipeline.models.tokenizer import eos_ids, load_tokenizer, shared_vocab
from pipeline.rollout.hf_sampler import HFSampler
from pipeline.runtime.config import section
from pipeline.runtime.layout import LAYOUT, Layout
from pipeline.training.optimizer import OptimizerParams

_LAYERS = "0,1,2,8,10,11,21,22,23,24,27,28,29"  # the best 13 of 30, by `python -m bench.end_to_end.layers`
_STUDENT = "measured"
_ENTRIES: dict[str, dict[str, Any]] = {
    "as-set": {"scoring": {"truncation": {}}},
    "larger": {
        "scoring": {"truncation": {"threshold": 0.001, "max_entries": 1024, "samples_per_tail": 200, "min_tail": 0.0}},
        "objective": {"tail_samples_scale": 0.3},
    },
}
_DECODED = 64  # the largest number of completions that are sampled at once


@click.command(help=__doc__)
@click.option("--json", "out", type=Path, help="Write the rows here as well.")
@click.option("--layers", default=_LAYERS, show_default=True, help="Layers of the teacher that the student keeps.")
@click.option(
    "--divergence",
    type=click.Choice([*BETAS]),
    default="forward_kl",
    show_default=True,
    help="What both sides minimise.",
)
@click.option("--steps", default=8, show_default=True, help="Optimizer steps of a row.")
@click.option(
    "--stretch", default=1, show_default=True, help="Factor by which this pipeline has more steps, which cost less."
)
@click.option("--measure", default=4, show_default=True, help="Steps between measurements.")
@click.option("--batch", default=8, show_default=True, help="Rollouts of a step.")
@click.option("--tokens", default=40, show_default=True, help="Largest number of tokens of a rollout.")
@click.option("--heldout", default=12, show_default=True, help="Held-out prompts on which a student is measured.")
@click.option("--completions", default=4, show_default=True, help="Completions of each held-out prompt.")
@click.option("--learning-rate", default=3e-4, show_default=True)
@click.option(
    "--schedule",
    type=click.Choice(["constant_with_warmup", "linear"]),
    default="linear",
    show_default=True,
    help="Schedule of the learning rate; linear goes down to 0 at the last step and is TRL's default.",
)
@click.option(
    "--ema-decay",
    type=float,
    help="Decay of the mean of weights, of this pipeline's rows and TRL's with a mean; the learning rate is constant.",
)
@click.option(
    "--entries",
    type=click.Choice([*_ENTRIES]),
    default="as-set",
    show_default=True,
    help="What this pipeline stores of a score: as in params.yaml, or what docs/training.md has for far students.",
)
@click.option(
    "--configuration",
    "configurations",
    multiple=True,
    default=("2x1x4", "4x1x4", "4x2x4"),
    show_default=True,
    help="EVERYxPASSESxSAMPLES: steps between refreshes, passes over the rollouts, rollouts per prompt.",
)
@click.option(
    "--recompute",
    type=bool,
    default=False,
    show_default=True,
    help="Whether both sides compute activations again in the backward pass, which is TRL's default.",
)
@click.option(
    "--trainer",
    "trainers",
    multiple=True,
    type=click.Choice([*TRAINERS]),
    default=TRAINERS[:1],
    show_default=True,
    help="A row of TRL; may be repeated.",
)
@click.option("--seeds", default=1, show_default=True, help="Number of seeds per configuration.")
@click.option("--only", help="Measure this row alone, in this process, and print it as a line of JSON.")
@click.option("--seed", default=0, show_default=True, help="Seed of --only.")
def main(
    out: Path | None,
    configurations: Sequence[str],
    trainers: Sequence[str],
    seeds: int,
    only: str | None,
    seed: int,
    **sizes: Any,
) -> None:
    """Run the benchmark and print its table."""
    setting = Setting(**sizes)
    if setting.ema_decay is None and any(map(averages, trainers)):
        raise click.UsageError("--trainer: expected --ema-decay beside a trainer with a mean of weights, got none")
    if only is not None:
        click.echo(json.dumps(list(measured(only, setting, seed))))
        return
    for configuration in configurations:
        parse_configuration(configuration, setting)
    names, runs, rows = [*(trainers if has_trl() else []), *configurations], list[Row](), list[Row]()
    for name in names:
        for seed_of_run in range(seeds):
            runs += run_in_subprocess("bench.end_to_end.quality", name, seed=seed_of_run, **asdict(setting))
            means = averaged(runs)
            rows = [*means, *against_trl(means, setting.divergence)]
            if out is not None:
                write_json(out, rows, setting=asdict(setting), runs=runs)
    show(table(rows), rows, out, setting=asdict(setting), runs=runs)
    if not has_trl():
        click.echo("trl is not installed: no row for it")


def parse_configuration(configuration: str, setting: Setting) -> tuple[int, int, int]:
    """Return the steps between refreshes, the passes and the rollouts per prompt.

    Raises:
        click.UsageError: If the configuration does not fit the setting.
    """
    parts = configuration.split("x")
    if len(parts) != 3 or not all(part.isdigit() and int(part) for part in parts):
        raise click.UsageError(f"--configuration: expected EVERYxPASSESxSAMPLES such as 8x2x4, got {configuration}")
    every, passes, samples = map(int, parts)
    if setting.measure % every or setting.steps % setting.measure:
        raise click.UsageError(
            f"--configuration: expected EVERY to divide --measure and --measure to divide --steps, got {configuration}"
        )
    if every * setting.batch % (passes * samples):
        raise click.UsageError(
            f"--configuration: expected PASSES times SAMPLES to divide EVERY times --batch, got {configuration}"
        )
    return every, passes, samples


def measured(name: str, setting: Setting, seed: int, run: Run = run_stage_in_subprocess) -> Iterator[Row]:
    """Train by `run` and yield one row per checkpoint.

    Raises:
        click.UsageError: If there are fewer held-out prompts than the setting asks for.
    """
    available = len(read_prompts(LAYOUT.prompts, "heldout"))
    if setting.heldout > available:
        raise click.UsageError(
            f"--heldout: expected at most the {available} of {LAYOUT.prompts}, got {setting.heldout}"
        )
    changes = changed(setting, seed)
    with tempfile.TemporaryDirectory() as folder:
        if name in TRAINERS:
            checkpoints = _train_with_trl(name, setting, seed, changes, Path(folder), run)
        else:
            checkpoints = [*_train_with_pipeline(name, setting, changes, Path(folder), run)]
        for row, model in checkpoints:
            yield row | {"configuration": name, "seed": seed} | divergences(model, setting)


def changed(setting: Setting, seed: int) -> dict[str, Any]:
    """Return the changes of params.yaml for every row."""
    layers = [int(layer) for layer in setting.layers.split(",")]
    changes = {
        "seed": seed,
        "students": [_STUDENT],
        "student": {_STUDENT: {"model": "teacher", "layers": layers}},
        "schedule": {"total_steps": setting.steps * setting.stretch, "max_staleness": None},
        "corpus": {"references": 0, "generations": 0},
        "reward": {},
        "replay": {"rounds": 0},
        "rollout": {"sampling": {"max_new_tokens": setting.tokens, "temperature": 1.0, "top_p": 1.0}},
        "objective": {
            "divergence": {"name": setting.divergence},
            "temperature": 1.0,
            "tail_estimator": "auto",
            "cross_entropy": 0.0,
            "alpha": 1.0,
        },
        "batches": {
            "batch_size": setting.batch,
            "micro_batch_size": setting.batch,
            "student_fraction": 1.0,
            "corpus_weights": None,
        },
        "optimizer": {
            "learning_rate": setting.learning_rate,
            "lr_scheduler_type": setting.schedule if setting.ema_decay is None else "constant_with_warmup",
            "warmup_steps": 0,
            "decay_steps": setting.steps * setting.stretch
            + 1,  # one step more, because TRL's last step has a rate above 0 too
            "save_steps": setting.steps * setting.stretch,
            "ema_decay": setting.ema_decay,
            "gradient_checkpointing": setting.recompute,
        },
    }
    return merged(changes, _ENTRIES[setting.entries])


def _train_with_pipeline(
    configuration: str, setting: Setting, changes: dict[str, Any], folder: Path, run: Run
) -> Iterator[tuple[Row, Path]]:
    every, passes, samples = parse_configuration(configuration, setting)
    rollouts = every * setting.batch // passes
    sizes = {
        "schedule": {"refresh_every": every},
        "rollout": {
            "prompts": rollouts // samples,
            "samples_per_prompt": samples,
            "batch_size": min(_DECODED, rollouts),
        },
    }
    spent: list[Spent] = []
    with job(folder / "job", merged(changes, sizes)) as rounds:
        make_corpus(run)  # an empty one
        initialise_student(_STUDENT, run)
        for item in rounds:
            spent += run_round(_STUDENT, item, run)
            done = item["first_step"] + item["steps"]
            if done % setting.measure == 0:
                row = {"step": done, "teacher_tokens": tokens_of(spent, "score")}
                row |= {clock: seconds_of(spent, clock=clock) for clock in CLOCKS}
                row["peak_mb"] = max(stage.peak_mb for stage in spent)
                yield row, Layout(folder / "job").round(_STUDENT, item["id"]).model


def _train_with_trl(
    name: str, setting: Setting, seed: int, changes: dict[str, Any], folder: Path, run: Run
) -> list[tuple[Row, Path]]:
    checkpoints: list[tuple[Row, Path]] = []
    once = {"schedule": {"total_steps": setting.steps, "refresh_every": setting.steps}}
    with job(folder / "job", merged(changes, once)):
        initialise_student(_STUDENT, run)  # in a process of its own, so that it leaves nothing in TRL's peak
        prompts, start = read_prompts(LAYOUT.prompts, "train"), LAYOUT.round(_STUDENT, "init").model
        tokenizer = load_tokenizer(start)

        def report(model: Any, step: int, seconds: dict[str, float], tokens: int) -> None:
            out = folder / f"trl-{step}"
            model.save_pretrained(out)
            tokenizer.save_pretrained(out)
            checkpoints.append(({"step": step, "teacher_tokens": tokens, "peak_mb": peak_bytes() / 1e6} | seconds, out))

        p = section(LAYOUT.params, OptimizerParams, "optimizer")
        run_trl(name, start, [prompt.prompt_ids for prompt in prompts], p, setting, seed, report)
    return checkpoints


def divergences(model: Path, setting: Setting) -> dict[str, float]:
    """Return dense divergences on completions that the model samples for held-out prompts, in nats per token.

    Each divergence has its standard error, as NAME_error.

    Every model is given the same uniform numbers.
    """
    p = section(LAYOUT.params, EvaluationParams, "evaluation")
    tokenizer, chosen = load_tokenizer(model), read_prompts(LAYOUT.prompts, "heldout")[: setting.heldout]
    prompts = [prompt for prompt in chosen for _ in range(setting.completions)]
    names = [f"{prompt.prompt_id}/{sample}" for prompt in chosen for sample in range(setting.completions)]
    vocab = shared_vocab(tokenizer)
    sampler = HFSampler(model, precision=p.precision, vocab=vocab, eos_ids=eos_ids(tokenizer), seed=0)
    sampling = sampling_alone(setting.tokens, temperature=1.0)
    completions = sampler.sample([prompt.prompt_ids for prompt in prompts], names, sampling)
    models = ModelPair(student=model, teacher=LAYOUT.teacher, vocab_size=vocab)
    comparisons = compare(models, prompts, completions, p, title="compare")
    means, row = concatenate(comparisons).means(), dict[str, float]()
    for name in BETAS:
        sums = np.reshape([part.sums(name) for part in comparisons], (len(chosen), -1, 2)).sum(1)
        row |= {name: means[name], f"{name}_error": of_ratio(chosen, *sums.T).error or 0.0}
    return row


def averaged(runs: Sequence[Row]) -> list[Row]:
    """Return means over seeds, one row per configuration and step; peaks of memory are the largest of all seeds."""
    rows: list[Row] = []
    for configuration, step in dict.fromkeys((row["configuration"], row["step"]) for row in runs):
        same = [row for row in runs if (row["configuration"], row["step"]) == (configuration, step)]
        means = {key: mean(row[key] for row in same) for key in (*CLOCKS, "teacher_tokens", *BETAS)}
        errors = {f"{key}_error": sum(row[f"{key}_error"] ** 2 for row in same) ** 0.5 / len(same) for key in BETAS}
        ranges = {f"{key}_range": max(row[key] for row in same) - min(row[key] for row in same) for key in BETAS}
        rows.append(
            {"name": f"{title(configuration)}: step {step}", "configuration": configuration}
            | {"step": step, "seeds": len(same)}
            | (means | errors | ranges)
            | {"peak_mb": max(row["peak_mb"] for row in same)}
        )
    return rows


def title(configuration: str) -> str:
    """Return a configuration in words."""
    if configuration in TRAINERS:
        return f"TRL's {configuration}"
    every, passes, samples = configuration.split("x")
    return f"refresh every {every}, passes {passes}, {samples} per prompt"


def against_trl(rows: Sequence[Row], divergence: str) -> list[Row]:
    """Return how much of the cost of each row of TRL each configuration needs to reach its last KL.

    Each row is the first measurement with a KL as low as TRL's last one, relative to what TRL took.
    """
    names, ratios = dict.fromkeys(row["configuration"] for row in rows), list[Row]()
    trainers = [name for name in names if name in TRAINERS]
    configurations = [name for name in names if name not in TRAINERS]
    for trainer, configuration in itertools.product(trainers, configurations):
        last = [row for row in rows if row["configuration"] == trainer][-1]
        own = [row for row in rows if row["configuration"] == configuration]
        reached = next((row for row in own if row[divergence] <= last[divergence]), None)
        ratios.append(
            {
                "name": f"{title(configuration)}: to the KL of {trainer}",
                "configuration": configuration,
                "trainer": trainer,
                "reached": reached is not None,
                "step": reached and reached["step"],
                divergence: (reached or own[-1])[divergence],
                "of_trl_seconds": reached and reached["seconds"] / last["seconds"],
                "of_trl_seconds_of_processor": reached
                and reached["seconds_of_processor"] / last["seconds_of_processor"],
                "of_trl_teacher_tokens": reached and reached["teacher_tokens"] / last["teacher_tokens"],
                "of_trl_peak": own[-1]["peak_mb"] / last["peak_mb"],
            }
        )
    return ratios


def table(rows: Sequence[Row]) -> list[list[str]]:
    """Return the table to print."""
    head = ["run", "forward KL", "error", "reverse KL", "error", "seconds", "processor, s", "teacher tokens", "peak MB"]
    head += ["of TRL's seconds", "of TRL's, processor", "of TRL's peak"]
    shown = {
        **{key: "{:.3f}" for name in BETAS for key in (name, f"{name}_error")},
        "seconds": "{:.1f}",
        "seconds_of_processor": "{:.1f}",
        "teacher_tokens": "{:,.0f}",
        "peak_mb": "{:,.0f}",
        "of_trl_seconds": "{:.2f}",
        "of_trl_seconds_of_processor": "{:.2f}",
        "of_trl_peak": "{:.2f}",
    }
    return [
        head,
        *(
            [row["name"], *(form.format(row[key]) if row.get(key) is not None else "" for key, form in shown.items())]
            for row in rows
        ),
    ]


if __name__ == "__main__":
    main()
