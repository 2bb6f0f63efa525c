"""Train students that are near their teacher, and measure how far a learning rate moves them.

    dvc repro evaluate@teacher
    python -m bench.end_to_end.near_pairs --start itself --try learning_rate=1e-6 --try learning_rate=1e-5 --json FILE

The project's params.yaml names teacher, prompts and sizes. A student starts as

- `itself`: the teacher. This is the control, because every gradient is then noise: of rounding, of sampling, and of the
  tokens that are not stored. The distance that the student moves is the distance that noise moves it.
- `noise`: the teacher with Gaussian noise of `--noise` times the root mean square of each weight matrix.
- `tuned`: the teacher after `--tuning-steps` steps of fine-tuning on references of other data.
- `smaller`: the teacher without one layer, after as many steps on references of its own data. It is the only start that
  cannot become the teacher.

Every student learns on-policy, from its own completions alone. `--try` changes parameters: keys of the section
`optimizer`, `batch_size`, or a path such as objective.divergence.name. `moments=fresh` is no parameter: each round
begins with new moments of Adam.

- A row is a checkpoint: the dense divergences on held-out prompts, and their changes since before training with
  standard errors, paired by prompt.
- A seed sets the noise or the order of fine-tuning, the rollouts, the order of batches, and the completions of the
  evaluation. Runs that exist are not repeated.
"""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from statistics import mean
from typing import Any

import click
import torch
from transformers import AutoConfig

from bench.end_to_end.job import initialise_student, job, make_corpus, merged, run_round, run_stage
from bench.end_to_end.methods import DONE, link
from bench.output import Row, show, write_json
from pipeline.evaluation.agreement import MEANS
from pipeline.models import language_model as lm
from pipeline.models.tokenizer import load_tokenizer, save_tokenizer
from pipeline.runtime.files import read_json
from pipeline.runtime.layout import LAYOUT, Layout
from pipeline.runtime.yaml_files import read_yaml
from pipeline.training.log import read_log

STARTS = ("itself", "noise", "tuned", "smaller")
_STUDENT = "near"
_EVALUATIONS = "evaluations/prompts"
_DECODED = 200  # completions that are sampled together
# Other data by task, for the start `tuned`: problems with larger numbers.
_OTHER: dict[str, dict[str, Any]] = {
    "arithmetic": {"train": 1000, "heldout": 10, "settings": {"seed": 1, "max_operand": 40, "max_value": 99}}
}


@click.command(help=__doc__)
@click.option("--start", "starts", multiple=True, type=click.Choice(STARTS), default=["itself"], show_default=True)
@click.option("--try", "trials", multiple=True, help="Changes as KEY=VALUE, separated by spaces; one table row each.")
@click.option("--seeds", default=1, show_default=True)
@click.option("--steps", default=32, show_default=True, help="Optimizer steps.")
@click.option("--refresh", default=8, show_default=True, help="Steps between new rollouts.")
@click.option("--measure", default=8, show_default=True, help="Steps between evaluations; a multiple of --refresh.")
@click.option("--batch", default=8, show_default=True, help="Sequences per step.")
@click.option("--noise", default=0.05, show_default=True)
@click.option("--tuning-steps", default=40, show_default=True)
@click.option("--tuning-rate", default=1e-4, show_default=True)
@click.option("--other", type=Path, help="Parameters whose section `task` has the other data of `tuned`.")
@click.option("--runs", type=Path, default=Path("near-runs"), show_default=True, help="Directory of the runs.")
@click.option("--json", "out", type=Path, help="Write the rows here as well.")
def main(starts: Sequence[str], trials: Sequence[str], seeds: int, runs: Path, out: Path | None, **sizes: Any) -> None:
    """Run the benchmark and print its tables."""
    rows: list[Row] = []
    for start in starts:
        for trial in trials or [""]:
            for seed in range(seeds):
                rows += run_trial(start, trial, seed, sizes, runs.resolve())
                click.echo(f"{start}, seed {seed}, {trial}: {summary(rows[-1])}")
                if out is not None:
                    write_json(out, rows)
    show(table(rows), rows, out)


def run_trial(start: str, trial: str, seed: int, sizes: Mapping[str, Any], runs: Path) -> list[Row]:
    """Train a student with a trial's changes, and return a row for each measured checkpoint, the start included."""
    changes = changes_of(trial, seed, sizes)
    begun, folder = make_start(start, seed, changes, sizes, runs), runs / folder_name(start, seed, trial)
    if (folder / "rows.json").is_file():
        return list(read_json(folder / "rows.json")["rows"])
    shutil.rmtree(folder, ignore_errors=True)
    with job(folder, changes) as rounds:
        for part in (f"{_STUDENT}/init", f"{_STUDENT}/base", f"{_EVALUATIONS}/{_STUDENT}-init.parquet"):
            link(Path("work") / part, begun / "work" / part)
        link(LAYOUT.prompt_metrics("teacher"), begun / LAYOUT.prompt_metrics("teacher"))
        make_corpus()  # an empty one
        about = {"start": start, "trial": trial, "seed": seed}
        rows = [about | {"step": 0} | measures(Layout(begun), "init")]
        for item in rounds:
            run_round(_STUDENT, item)
            files, done = LAYOUT.round(_STUDENT, item["id"]), item["first_step"] + item["steps"]
            if "moments=fresh" in trial.split():
                forget_moments(files.optimizer)
            if done % sizes["measure"] == 0:
                run_stage("evaluate", name=f"{_STUDENT}-{item['id']}", model=files.model)
                losses = [row["loss"] for row in read_log(files.log)]
                rows.append(about | {"step": done, "losses": losses} | measures(LAYOUT, item["id"]))
        shutil.rmtree(LAYOUT.work / _STUDENT)  # gigabytes, which nothing reads again
    write_json(folder / "rows.json", rows)
    return rows


def changes_of(trial: str, seed: int, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the changes of params.yaml for a trial."""
    batch, optimizer, others = sizes["batch"], dict[str, Any](), dict[str, Any]()
    for word in trial.split():
        key, _, text = word.partition("=")
        value = json_or_text(text)
        if key == "batch_size":
            batch = value
        elif "." in key:
            others = merged(others, nested(key.split("."), value))
        elif key != "moments":
            optimizer[key] = value
    rollouts = batch * sizes["refresh"]
    changes = {
        "seed": seed,
        "students": [_STUDENT],
        "student": {_STUDENT: {"model": "teacher"}},
        "schedule": {"total_steps": sizes["steps"], "refresh_every": sizes["refresh"], "max_staleness": None},
        "corpus": {"references": 0, "generations": 0},
        "rollout": {"prompts": rollouts, "samples_per_prompt": 1, "batch_size": min(rollouts, _DECODED)},
        "reward": {},
        "replay": {"rounds": 0},
        "batches": {
            "batch_size": batch,
            "micro_batch_size": min(batch, 8 if batch % 8 == 0 else batch),
            "student_fraction": 1.0,
            "corpus_weights": None,
        },
        "optimizer": {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 0, "ema_decay": None}
        | {"decay_steps": sizes["steps"] + 1, "save_steps": sizes["refresh"]}
        | optimizer,
    }
    return merged(changes, others)


def json_or_text(text: str) -> Any:
    """Return the value of a JSON text, or the text where it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def nested(keys: Sequence[str], value: Any) -> dict[str, Any]:
    """Return mappings of one key each, around a value."""
    return {keys[0]: nested(keys[1:], value) if keys[1:] else value}


def folder_name(*parts: Any) -> str:
    """Return the name of a run's directory."""
    return re.sub(r"[^\w.=-]+", "_", "-".join(map(str, parts)))


def make_start(start: str, seed: int, changes: Mapping[str, Any], sizes: Mapping[str, Any], runs: Path) -> Path:
    """Make the student before training and evaluate it; return its folder, which later trials find."""
    begun = runs / folder_name(start, seed)
    if (begun / DONE).is_file():
        return begun
    shutil.rmtree(begun, ignore_errors=True)
    home, model = Path.cwd(), "teacher"
    if start == "noise":
        model = str(add_noise(sizes["noise"], seed, runs))
    elif start in ("tuned", "smaller"):
        model = str(tune(start, seed, merged(changes, tuning_changes(start, sizes)), runs))
    with job(begun, merged(changes, {"student": {_STUDENT: {"model": model}}})):
        link(LAYOUT.prompt_metrics("teacher"), home / LAYOUT.prompt_metrics("teacher"))
        initialise_student(_STUDENT)
        run_stage("evaluate", name=f"{_STUDENT}-init", model=LAYOUT.round(_STUDENT, "init").model)
        Path(DONE).touch()
    return begun


def add_noise(noise: float, seed: int, runs: Path) -> Path:
    """Write the teacher with Gaussian noise on every weight matrix, relative to its root mean square."""
    folder, model = runs / f"noisy-{seed}", lm.load_model(LAYOUT.teacher)
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight += noise * weight.square().mean().sqrt() * torch.randn_like(weight)
    lm.save_model(model, folder)
    save_tokenizer(load_tokenizer(LAYOUT.teacher), folder)
    return folder


def tuning_changes(start: str, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the changes of params.yaml for the fine-tuning of a student."""
    document, steps = read_yaml(LAYOUT.params), sizes["tuning_steps"]
    rate = {"learning_rate": sizes["tuning_rate"], "warmup_steps": 5, "decay_steps": steps, "save_steps": steps}
    tuning = {"references": None, "steps": steps, "batch_size": 8, "micro_batch_size": 8}
    changes: dict[str, Any] = {"sft": {_STUDENT: tuning | {"optimizer": document["optimizer"] | rate}}}
    if start == "smaller":
        count = AutoConfig.from_pretrained(LAYOUT.teacher).num_hidden_layers
        layers = [layer for layer in range(count) if layer != count // 2]
        return changes | {"student": {_STUDENT: {"layers": layers}}}
    task = read_yaml(sizes["other"])["task"] if sizes["other"] else _OTHER.get(document["task"]["name"])
    if task is None:
        raise click.UsageError("--start tuned: name other data with --other")
    return changes | {"task": task}


def tune(start: str, seed: int, changes: Mapping[str, Any], runs: Path) -> Path:
    """Fine-tune the student on references; return the model directory."""
    folder = runs / f"tuning-{start}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    with job(folder, changes):
        if "task" in changes:
            LAYOUT.prompts.unlink()  # the link to the prompts of the task
            run_stage("prepare", teacher=LAYOUT.teacher)
        run_stage("init", student=_STUDENT, to="untuned")
        before, after = (LAYOUT.round(_STUDENT, name) for name in ("untuned", "init"))
        run_stage("sft", name=_STUDENT, model=before.model, out=after.model, log=LAYOUT.round(_STUDENT, "sft").log)
        return after.model.resolve()


def forget_moments(optimizer: Path) -> None:
    """Set the moments of Adam and its count of steps to 0 in an optimizer file."""
    saved = torch.load(optimizer, weights_only=True)
    for state in saved["optimizer"]["state"].values():
        for value in state.values():
            value.zero_()
    torch.save(saved, optimizer)


def measures(layout: Layout, checkpoint: str) -> Row:
    """Return the measures of a checkpoint, and their changes since before training with errors."""
    evaluation = read_json(layout.evaluation(f"{_STUDENT}-{checkpoint}"))
    row: Row = {"worse": read_json(layout.verdict(f"{_STUDENT}-{checkpoint}"))["worse"]}
    for name in MEANS:
        row[name] = evaluation["metrics"][name]
        change = evaluation["changes"].get(name, {"difference": 0.0, "error": 0.0})
        row[f"{name}_change"], row[f"{name}_change_error"] = change["difference"], change["error"]
    return row


def summary(row: Row) -> str:
    """Return the last checkpoint of a run in one line."""
    parts = [
        f"{name} {row[name]:.4f} ({row[f'{name}_change']:+.4f} ± {row[f'{name}_change_error']:.4f})" for name in MEANS
    ]
    return ", ".join(parts) + (", worse" if row["worse"] else "")


def table(rows: Sequence[Row]) -> list[list[str]]:
    """Return a line per start and trial with means over seeds: the forward KL at every step, and the last changes."""
    steps = sorted({row["step"] for row in rows})
    lines = [["start", "trial", *(f"step {step}" for step in steps)]]
    lines[0] += ["change of forward KL", "of reverse KL", "of top-1 agreement", "worse"]
    for start, trial in dict.fromkeys((row["start"], row["trial"]) for row in rows):
        same = [row for row in rows if (row["start"], row["trial"]) == (start, trial)]
        by_step = {step: [row for row in same if row["step"] == step] for step in steps}
        last = by_step[max(row["step"] for row in same)]
        cells = [f"{mean(row['forward_kl'] for row in by_step[step]):.4f}" if by_step[step] else "-" for step in steps]
        changes = [change_cell(last, name) for name in ("forward_kl", "reverse_kl", "top1_agreement")]
        worse = sum(row["worse"] for row in last)
        lines.append([start, trial, *cells, *changes, f"{worse} of {len(last)}"])
    return lines


def change_cell(rows: Sequence[Row], name: str) -> str:
    """Return the mean change over seeds with its standard error over prompts."""
    error = sqrt(sum(row[f"{name}_change_error"] ** 2 for row in rows)) / len(rows)
    return f"{mean(row[f'{name}_change'] for row in rows):+.4f} ({error:.4f})"


if __name__ == "__main__":
    main()
