"""How fast a student comes near its teacher: held-out KL against wall time and teacher tokens, beside TRL's GKDTrainer.

    python -m bench.end_to_end.quality --json FILE
    python -m bench.end_to_end.quality --steps 32 --measure 32 --heldout 24 --completions 6 --seeds 3 \
        --way 16x1x4 --ema-decay 0.9 --entries larger --json FILE    # an hour; docs/results.md, "The goal"

Every row trains the first student of params.yaml in steps of the same size on nothing but its own rollouts for the same
training prompts, with the same learning rate, from the same seed: through this pipeline's stages
(`bench.end_to_end.job`) with fresh rollouts every so many steps, so many passes over them and so many of each prompt,
and with a live teacher (`bench.end_to_end.trl_gkd`), where `trl` is installed (`pip install --no-deps trl`). Forward KL
is dense, in nats a token, on completions that the student samples for held-out prompts; its standard error is that of
this sample (of prompts and completions), not of training. With the linear schedule only the last measurement of a row
is that of a finished run; with the constant one each is, and has the noise of its last steps, which `--ema-decay` takes
out of ours.

Each of TRL's runs and each stage of ours has a process of its own, whose peak of resident memory is told (the largest
of a run's stages); KL is measured on saved checkpoints afterwards, off the clock. Seconds include loading models,
hashing and checkpoints, and not the imports. Run where a finished job's teacher and prompts are (work/).
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from bench.clock import CLOCKS
from bench.end_to_end.job import Run, Spent, apart, begin, go_round, job, make_corpus, merged, seconds_of, tokens_of
from bench.end_to_end.trl_gkd import has_trl, run_gkd
from bench.output import Row, show, write_json
from bench.subprocess_run import measured_apart, peak_bytes
from pipeline.core.files import read_prompts
from pipeline.core.sampling import Sampling
from pipeline.evaluation.agreement import compare, join
from pipeline.evaluation.completions import EvaluationParams
from pipeline.models.tokenizer import eos_ids, load_tokenizer, shared_vocab
from pipeline.rollout.hf_sampler import HFSampler
from pipeline.runtime.config import lookup, section
from pipeline.runtime.layout import LAYOUT, Layout
from pipeline.training.loop import OptimizerParams

_TRL = "trl"
_STUDENT = "measured"
_ENTRIES: dict[str, dict[str, Any]] = {
    "as-set": {"scoring": {"truncation": {}}},
    "larger": {
        "scoring": {"truncation": {"threshold": 0.001, "max_entries": 1024, "samples_per_tail": 200, "min_tail": 0.0}},
        "objective": {"tail_samples_scale": 0.3},
    },
}
_DECODED = 64  # completions at once, as many as a round has or these


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What all rows have in common."""

    steps: int
    stretch: int
    measure: int
    batch: int
    tokens: int
    heldout: int
    completions: int
    learning_rate: float
    schedule: str
    ema_decay: float | None
    entries: str


@click.command(help=__doc__)
@click.option("--json", "out", type=Path, help="Write the rows here as well.")
@click.option("--steps", default=8, show_default=True, help="Optimizer steps of a row.")
@click.option("--stretch", default=1, show_default=True, help="Times as many steps for ours, which cost less.")
@click.option("--measure", default=4, show_default=True, help="Steps between measurements.")
@click.option("--batch", default=8, show_default=True, help="Rollouts of a step.")
@click.option("--tokens", default=40, show_default=True, help="Of a rollout, at most.")
@click.option("--heldout", default=12, show_default=True, help="Prompts on which a student is measured.")
@click.option("--completions", default=4, show_default=True, help="Of each of these.")
@click.option("--learning-rate", default=3e-4, show_default=True)
@click.option(
    "--schedule",
    type=click.Choice(["constant_with_warmup", "linear"]),
    default="linear",
    show_default=True,
    help="Of the learning rate; linear: down to 0 at the last step, as TRL has it by default.",
)
@click.option("--ema-decay", type=float, help="Ours have a constant rate and publish a moving average of the weights.")
@click.option(
    "--entries",
    type=click.Choice([*_ENTRIES]),
    default="as-set",
    show_default=True,
    help="What ours store of a score: as in params.yaml, or as docs/training.md has it for students that are far off.",
)
@click.option("--way", "ways", multiple=True, default=("2x1x4", "4x1x4", "4x2x4"), show_default=True)
@click.option("--seeds", default=1, show_default=True)
@click.option("--only", help="One row, here and now, as a line of JSON: what the others are measured through.")
@click.option("--seed", default=0, show_default=True, help="Of --only.")
def main(out: Path | None, ways: Sequence[str], seeds: int, only: str | None, seed: int, **sizes: Any) -> None:
    """--way EVERYxPASSESxSAMPLES: steps between refreshes, passes over the rollouts of each, rollouts of a prompt."""
    setting = Setting(**sizes)
    if only is not None:
        click.echo(json.dumps(list(measured(only, setting, seed))))
        return
    for way in ways:
        check_way(way, setting)
    names, runs, rows = [*([_TRL] if has_trl() else []), *ways], list[Row](), list[Row]()
    for name in names:
        for one in range(seeds):
            runs += measured_apart("bench.end_to_end.quality", name, seed=one, **asdict(setting))
            means = averaged(runs)
            rows = [*means, *against_trl(means)]
            if out is not None:
                write_json(out, rows, setting=asdict(setting), runs=runs)
    show(table(rows), rows, out, setting=asdict(setting), runs=runs)
    if _TRL not in names:
        click.echo("trl is not installed: no row for it")


def check_way(way: str, setting: Setting) -> tuple[int, int, int]:
    """Steps between refreshes, passes, rollouts of a prompt; a click.UsageError where they do not fit."""
    parts = way.split("x")
    if len(parts) != 3 or not all(part.isdigit() and int(part) for part in parts):
        raise click.UsageError(f"--way: expected EVERYxPASSESxSAMPLES such as 8x2x4, got {way}")
    every, passes, samples = map(int, parts)
    if setting.measure % every or setting.steps % setting.measure:
        raise click.UsageError(f"--way: expected a divisor of --measure, and that one of --steps, got {way}")
    if every * setting.batch % (passes * samples):
        raise click.UsageError(f"--way {way}: expected whole prompts of SAMPLES rollouts in --batch times EVERY")
    return every, passes, samples


def measured(name: str, setting: Setting, seed: int, run: Run = apart) -> Iterator[Row]:
    """One row a checkpoint, after all of them are trained by `run`; a click.UsageError where prompts are missing."""
    there = len(read_prompts(LAYOUT.prompts, "heldout"))
    if setting.heldout > there:
        raise click.UsageError(f"--heldout: expected at most the {there} of {LAYOUT.prompts}, got {setting.heldout}")
    changes = changed(setting, seed)
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        checkpoints = _trl(setting, seed, changes, at) if name == _TRL else _pipeline(name, setting, changes, at, run)
        trained = [*checkpoints]
        for row, model in trained:
            yield row | {"way": name, "seed": seed} | divergences(model, setting)


def changed(setting: Setting, seed: int) -> dict[str, Any]:
    """What is changed of params.yaml for every row."""
    document, mean = lookup(LAYOUT.params), setting.ema_decay is not None
    changes = {
        "seed": seed,
        "students": [_STUDENT],
        "student": {_STUDENT: document["student"][document["students"][0]]},
        "schedule": {"total_steps": setting.steps * setting.stretch, "max_staleness": None},
        "corpus": {"references": 0, "generations": 0},
        "reward": {},
        "replay": {"rounds": 0},
        "rollout": {"sampling": {"max_new_tokens": setting.tokens, "temperature": 1.0, "top_p": 1.0}},
        "objective": {
            "divergence": {"name": "forward_kl"},
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
            "lr_scheduler_type": "constant_with_warmup" if mean else setting.schedule,
            "warmup_steps": 0,
            "decay_steps": setting.steps * setting.stretch + 1,  # one more: TRL's last step has not reached 0 either
            "save_steps": setting.steps * setting.stretch,
            "ema_decay": setting.ema_decay,
        },
    }
    return merged(changes, _ENTRIES[setting.entries])


def _pipeline(
    way: str, setting: Setting, changes: dict[str, Any], folder: Path, run: Run
) -> Iterator[tuple[Row, Path]]:
    every, passes, samples = check_way(way, setting)
    rollouts = every * setting.batch // passes
    own = {
        "schedule": {"refresh_every": every},
        "rollout": {
            "prompts": rollouts // samples,
            "samples_per_prompt": samples,
            "batch_size": min(_DECODED, rollouts),
        },
    }
    spent: list[Spent] = []
    with job(folder / "job", merged(changes, own)) as rounds:
        make_corpus(run)  # an empty one
        begin(_STUDENT, run)
        for one in rounds:
            spent += go_round(_STUDENT, one, run)
            done = one["first_step"] + one["steps"]
            if done % setting.measure == 0:
                row = {"step": done, "teacher_tokens": tokens_of(spent, "score")}
                row |= {clock: seconds_of(spent, clock=clock) for clock in CLOCKS}
                row["peak_mb"] = max(stage.peak_mb for stage in spent)
                yield row, Layout(folder / "job").round(_STUDENT, one["id"]).model


def _trl(setting: Setting, seed: int, changes: dict[str, Any], folder: Path) -> list[tuple[Row, Path]]:
    found: list[tuple[Row, Path]] = []
    once = {"schedule": {"total_steps": setting.steps, "refresh_every": setting.steps}}
    with job(folder / "job", merged(changes, once)):
        begin(_STUDENT)
        prompts, start = read_prompts(LAYOUT.prompts, "train"), LAYOUT.round(_STUDENT, "init").model
        tokenizer = load_tokenizer(start)

        def tell(model: Any, step: int, seconds: dict[str, float], tokens: int) -> None:
            out = folder / f"trl-{step}"
            model.save_pretrained(out)
            tokenizer.save_pretrained(out)
            found.append(({"step": step, "teacher_tokens": tokens, "peak_mb": peak_bytes() / 1e6} | seconds, out))

        run_gkd(
            start,
            LAYOUT.teacher,
            [one.prompt_ids for one in prompts],
            section(LAYOUT.params, OptimizerParams, "optimizer"),
            schedule=setting.schedule,
            batch=setting.batch,
            tokens=setting.tokens,
            steps=setting.steps,
            every=setting.measure,
            seed=seed,
            tell=tell,
        )
    return found


def divergences(model: Path, setting: Setting) -> dict[str, float]:
    """Dense, on completions that the model samples for held-out prompts; the same uniform numbers for every model."""
    p = section(LAYOUT.params, EvaluationParams, "evaluation")
    tokenizer, chosen = load_tokenizer(model), read_prompts(LAYOUT.prompts, "heldout")[: setting.heldout]
    prompts = [one for one in chosen for _ in range(setting.completions)]
    names = [f"{one.prompt_id}/{sample}" for one in chosen for sample in range(setting.completions)]
    vocab = shared_vocab(tokenizer)
    sampler = HFSampler(model, precision=p.precision, vocab=vocab, eos_ids=eos_ids(tokenizer), seed=0)
    way = Sampling(
        max_new_tokens=setting.tokens,
        temperature=1.0,
        top_p=1.0,
        record_threshold=1.0,
        record_max=0,
        record_tail_samples=0,
    )
    made = sampler.sample([one.prompt_ids for one in prompts], names, way)
    each = compare(model, LAYOUT.teacher, prompts, made, p, vocab=vocab, title="compare")
    found = join(each).means()
    sums = [(one.forward_kl_N.double().sum().item(), len(one.forward_kl_N)) for one in each]
    error = error_of_ratio(np.reshape(sums, (len(chosen), -1, 2)).sum(1))
    return {"forward_kl": found["forward_kl"], "error": error, "reverse_kl": found["reverse_kl"]}


def error_of_ratio(sums_G2: NDArray[np.float64]) -> float:
    """Standard error of sum over sum, linearised, where the G prompts are what is drawn.

    Source: Cochran, "Sampling Techniques", 1977, section 6.3 (ratio estimators).
    """
    over_G, under_G = sums_G2.T
    off_G = over_G - over_G.sum() / under_G.sum() * under_G
    return float(np.sqrt((off_G**2).sum() * len(off_G) / (len(off_G) - 1)) / under_G.sum())


def averaged(runs: Sequence[Row]) -> list[Row]:
    """Means over seeds, one row a way and step; peaks are the largest."""
    rows: list[Row] = []
    for way, step in dict.fromkeys((row["way"], row["step"]) for row in runs):
        same = [row for row in runs if (row["way"], row["step"]) == (way, step)]
        kls = [row["forward_kl"] for row in same]
        means = {key: mean(row[key] for row in same) for key in (*CLOCKS, "teacher_tokens", "forward_kl", "reverse_kl")}
        rows.append(
            {"name": f"{title(way)}: step {step}", "way": way, "step": step, "seeds": len(same)}
            | means
            | {"error": sum(row["error"] ** 2 for row in same) ** 0.5 / len(same)}
            | {"range": max(kls) - min(kls), "peak_mb": max(row["peak_mb"] for row in same)}
        )
    return rows


def title(way: str) -> str:
    """A way in words."""
    if way == _TRL:
        return "TRL, live teacher"
    every, passes, samples = way.split("x")
    return f"refresh every {every}, passes {passes}, {samples} of a prompt"


def against_trl(rows: Sequence[Row]) -> list[Row]:
    """For each of our ways the first measurement that is as near as TRL's last, in parts of what TRL took."""
    theirs = [row for row in rows if row["way"] == _TRL]
    if not theirs:
        return []
    last, found = theirs[-1], list[Row]()
    for way in dict.fromkeys(row["way"] for row in rows if row["way"] != _TRL):
        own = [row for row in rows if row["way"] == way]
        there = next((row for row in own if row["forward_kl"] <= last["forward_kl"]), None)
        found.append(
            {
                "name": f"{title(way)}: to TRL's KL",
                "way": way,
                "reached": there is not None,
                "step": there and there["step"],
                "forward_kl": (there or own[-1])["forward_kl"],
                "of_trl_seconds": there and there["seconds"] / last["seconds"],
                "of_trl_seconds_of_processor": there and there["seconds_of_processor"] / last["seconds_of_processor"],
                "of_trl_teacher_tokens": there and there["teacher_tokens"] / last["teacher_tokens"],
                "of_trl_peak": own[-1]["peak_mb"] / last["peak_mb"],
            }
        )
    return found


def table(rows: Sequence[Row]) -> list[list[str]]:
    """The rows to read."""
    head = ["run", "forward KL", "error", "seconds", "processor, s", "teacher tokens", "peak MB"]
    head += ["of TRL's seconds", "of TRL's, processor", "of TRL's peak"]
    shown = {
        "forward_kl": "{:.3f}",
        "error": "{:.3f}",
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
