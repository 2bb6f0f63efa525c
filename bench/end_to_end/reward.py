"""Compare a reward with distillation alone on synthetic problems, with a teacher that knows no more than its student.

    stillroom preset arithmetic-tiny
    python -m bench.end_to_end.reward --seeds 3 --json FILE

The teacher has the student's size and is fine-tuned as the student is, from other weights. Distillation alone therefore
has little to teach, and a further rise of the share of right answers comes from the reward, which is that share.

- Every configuration has the same initial student, steps, prompts per round and completions per prompt; only
  `objective.alpha` differs. The stages run in this process as in `bench.end_to_end.methods`, whose docstring explains
  the seeds and the standard error.
- `training_reward` is the mean reward of the last round's rollouts; in the row before training, of the first round's.
- Problems have smaller numbers than the preset's, so that a student that is right half of the time takes seconds.
"""

import os
from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path
from statistics import mean
from typing import Any

import click

from bench.end_to_end.job import make_corpus, merged, run_stage
from bench.end_to_end.methods import Configuration, link, run_seed, table
from bench.output import Row, show
from pipeline.runtime.files import read_json
from pipeline.runtime.layout import LAYOUT, Layout, round_list, store_root
from pipeline.runtime.yaml_files import read_yaml, write_yaml
from pipeline.training.log import read_log
from pipeline.workspace.presets import PRESETS
from pipeline.workspace.schedule import ROUNDS, follow_params

CONFIGURATIONS = [
    Configuration(name=name, method="on-policy", divergence="reverse_kl", changes={("objective", "alpha"): alpha})
    for name, alpha in (("distillation alone", 1.0), ("reward, alpha 0.01", 0.01))
]
COLUMNS = ("training_reward", "exact_match_at_1", "exact_match", "reverse_kl")
_SETTING: dict[str, Any] = {
    "task": {"train": 161, "heldout": 90, "settings": {"heldout_share": 0.3, "max_operand": 5, "max_value": 10}},
    "corpus": {"references": 8, "generations": 0},  # the student learns from its own completions alone
    # The scorer stores all tokens of the 296 that matter, so the sampler need not record any.
    "rollout": {"sampling": {"record_max": 0, "record_tail_samples": 0}},
    "scoring": {"truncation": {"threshold": 0.001, "samples_per_tail": 0.0}},
    "objective": {"tail_estimator": "bucket"},
    "reward": {"exact_match": 1.0},
}


@click.command(help=__doc__)
@click.option("--seeds", default=3, show_default=True)
@click.option("--only", multiple=True, help="Configurations to run, by their names; default: all.")
@click.option(
    "--tuning", default=180, show_default=True, help="Steps of fine-tuning on references, for teacher and student."
)
@click.option("--steps", default=60, show_default=True, help="Optimizer steps of every configuration.")
@click.option("--refresh", default=4, show_default=True, help="Steps between new rollouts.")
@click.option("--prompts", default=161, show_default=True, help="Prompts per round.")
@click.option("--samples", default=4, show_default=True, help="Completions per prompt; every step takes all of them.")
@click.option("--learning-rate", default=3e-4, show_default=True)
@click.option("--runs", type=Path, default=Path("reward-runs"), show_default=True, help="Directory of the runs.")
@click.option("--json", "out", type=Path, help="Write the rows here as well.")
def main(seeds: int, only: tuple[str, ...], tuning: int, runs: Path, out: Path | None, **sizes: Any) -> None:
    """Run the benchmark and print its table."""
    os.environ["STILLROOM_STORE"] = str(store_root().resolve())
    runs = runs.resolve()
    configurations = [entry for entry in CONFIGURATIONS if not only or entry.name in only]
    make_equal_teacher(runs / "project", merged(merged(read_yaml(LAYOUT.params), _SETTING), sized(**sizes)), tuning)
    with chdir(runs / "project"):
        rows = [
            add_training_reward(row, configurations, runs)
            for seed in range(seeds)
            for row in run_seed(configurations, seed, runs)
        ]
        teacher = read_json(LAYOUT.evaluation("teacher"))["metrics"]
    show(table(rows, COLUMNS, teacher), rows, out, teacher=teacher)


def add_training_reward(row: Row, configurations: Sequence[Configuration], runs: Path) -> Row:
    """Return the row with the mean reward of the last round's rollouts; before training, of the first round's."""
    untrained = row["name"] not in [entry.name for entry in configurations]
    (configuration, *_) = [entry for entry in configurations if untrained or entry.name == row["name"]]
    home = runs / f"{configuration.folder}-{row['seed']}"
    rounds = round_list(read_yaml(home / ROUNDS))
    (log,) = home.glob(f"logs/*/{rounds[0 if untrained else -1]['id']}/train.csv")
    return row | {"training_reward": mean(step["reward"] for step in read_log(log))}


def sized(*, steps: int, refresh: int, prompts: int, samples: int, learning_rate: float) -> dict[str, Any]:
    """Return changes of params.yaml with which every step takes all completions of its round (docs/results.md)."""
    batch = prompts * samples
    return {
        "schedule": {"total_steps": steps, "refresh_every": refresh},
        "rollout": {"prompts": prompts, "samples_per_prompt": samples, "batch_size": prompts * samples},
        "batches": {"batch_size": batch, "micro_batch_size": batch},
        "optimizer": {"learning_rate": learning_rate, "decay_steps": steps, "adam_beta2": 0.99},
    }


def make_equal_teacher(folder: Path, document: dict[str, Any], tuning: int) -> None:
    """Make a project whose teacher has the student's size and fine-tuning, unless the folder has it already."""
    (student,) = document["students"]
    config, sft = document["student"][student]["config"], document["sft"][student]
    sft = merged(sft, {"steps": tuning, "optimizer": {"decay_steps": tuning}})
    document = merged(document, {"teacher": {"model": {"config": config}}, "sft": {"teacher": sft, student: sft}})
    folder.mkdir(parents=True, exist_ok=True)
    write_yaml(Layout(folder).params, document, comment="Of a benchmark.")
    if not (folder / PRESETS).exists():
        link(folder / PRESETS, PRESETS.resolve())
    with chdir(folder):
        follow_params()
        if not Path("done").is_file():
            _train_teacher()


def _train_teacher() -> None:
    base = read_yaml(ROUNDS)["teacher_dir"]
    run_stage("teacher", out=base)
    run_stage("prepare", teacher=base)
    run_stage("sft", name="teacher", model=base, out=LAYOUT.teacher, log=LAYOUT.round("teacher", "sft").log)
    make_corpus()
    run_stage("evaluate", name="teacher", model=LAYOUT.teacher)
    Path("done").touch()


if __name__ == "__main__":
    main()
