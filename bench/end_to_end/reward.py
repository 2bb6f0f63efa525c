"""A reward against distillation alone, on made-up problems: a teacher that knows no more than its student.

    stillroom preset arithmetic-tiny
    python -m bench.end_to_end.reward --seeds 3 --json FILE

The teacher has the student's size and was tuned as the student was, from other weights. So distillation alone has
little to teach, and what raises the share of right answers further is the reward, which is that share. Every way
has the same start, steps, prompts a round and completions a prompt; `objective.alpha` alone differs. The stages are the
pipeline's own, run in this process as `bench.end_to_end.methods` runs them; there stands what a seed makes, what is
kept, and what the standard error is. `training_reward` is the mean of the last round's rollouts, before training of the
first's. Problems have smaller numbers than the preset's, so that a start that is right half of the time takes seconds.
Not taken: the student as it starts for a teacher, from which distillation alone cannot learn anything.
"""

import os
from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path
from statistics import mean
from typing import Any

import click

from bench.end_to_end.job import make_corpus, merged, run_stage
from bench.end_to_end.methods import Way, link, on_policy, run_seed, table
from bench.output import Row, show
from pipeline.report.jobs import round_list
from pipeline.runtime.files import read_json
from pipeline.runtime.layout import PARAMS, TEACHER, store_root
from pipeline.runtime.yaml_files import read_yaml, write_yaml
from pipeline.training.log import read_log
from pipeline.workspace.presets import PRESETS
from pipeline.workspace.schedule import ROUNDS, follow_params

WAYS = [
    on_policy("distillation alone", "reverse_kl", alpha=1.0),
    on_policy("reward, alpha 0.01", "reverse_kl", alpha=0.01),
]
COLUMNS = ("training_reward", "sampled_exact_match", "exact_match", "reverse_kl")
_SETTING: dict[str, Any] = {
    "task": {"train": 161, "heldout": 90, "settings": {"heldout_share": 0.3, "max_operand": 5, "max_value": 10}},
    "corpus": {"references": 8, "generations": 0},  # the student learns from nothing but what it writes
    "rollout": {
        "sampling": {"record_max": 0, "record_tail_samples": 0}
    },  # of 296 tokens the scorer keeps all that matter
    "scoring": {"truncation": {"threshold": 0.001, "samples_per_tail": 0.0}},
    "objective": {"tail_estimator": "bucket"},
    "reward": {"exact_match": 1.0},
}


@click.command(help=__doc__)
@click.option("--seeds", default=3, show_default=True)
@click.option("--only", multiple=True, help="Ways to run; default: all.")
@click.option(
    "--tuning", default=180, show_default=True, help="Steps on references that teacher and student begin with."
)
@click.option("--steps", default=60, show_default=True, help="Optimizer steps of every way.")
@click.option("--refresh", default=4, show_default=True, help="Steps between fresh rollouts.")
@click.option("--prompts", default=161, show_default=True, help="Of a round.")
@click.option("--samples", default=4, show_default=True, help="Completions of a prompt; every step takes all.")
@click.option("--learning-rate", default=3e-4, show_default=True)
@click.option("--runs", type=Path, default=Path("reward-runs"), show_default=True, help="Where the runs are kept.")
@click.option("--json", "out", type=Path, help="Write the rows here as well.")
def main(seeds: int, only: tuple[str, ...], tuning: int, runs: Path, out: Path | None, **sizes: Any) -> None:
    os.environ["STILLROOM_STORE"] = str(store_root().resolve())
    runs, ways = runs.resolve(), [one for one in WAYS if not only or one.name in only]
    make_peer(runs / "project", merged(merged(read_yaml(PARAMS), _SETTING), sized(**sizes)), tuning)
    with chdir(runs / "project"):
        rows = [trained(row, ways, runs) for seed in range(seeds) for row in run_seed(ways, seed, runs)]
        teacher = read_json(Path("work/evaluations/teacher.json"))["metrics"]
    show(table(rows, COLUMNS, teacher), rows, out, teacher=teacher)


def trained(row: Row, ways: Sequence[Way], runs: Path) -> Row:
    """With the mean reward of the last round's completions, of training problems; before training, of the first's."""
    began = row["name"] not in [one.name for one in ways]
    (way, *_) = ways if began else [one for one in ways if one.name == row["name"]]
    home = runs / f"{way.folder}-{row['seed']}"
    rounds = round_list(read_yaml(home / ROUNDS))
    (log,) = home.glob(f"logs/*/{rounds[0 if began else -1]['id']}/train.csv")
    return row | {"training_reward": mean(one["reward"] for one in read_log(log))}


def sized(*, steps: int, refresh: int, prompts: int, samples: int, learning_rate: float) -> dict[str, Any]:
    """Of params.yaml: every step takes all completions of its round; docs/results.md says why."""
    batch = prompts * samples
    return {
        "schedule": {"total_steps": steps, "refresh_every": refresh},
        "rollout": {"prompts": prompts, "samples_per_prompt": samples, "batch_size": prompts * samples},
        "batches": {"batch_size": batch, "micro_batch_size": batch},
        "optimizer": {"learning_rate": learning_rate, "decay_steps": steps, "adam_beta2": 0.99},
    }


def make_peer(folder: Path, document: dict[str, Any], tuning: int) -> None:
    """A project whose teacher is of the student's size and tuned like it; one that is there already stays."""
    (student,) = document["students"]
    config, sft = document["student"][student]["config"], document["sft"][student]
    sft = merged(sft, {"steps": tuning, "optimizer": {"decay_steps": tuning}})
    document = merged(document, {"teacher": {"model": {"config": config}}, "sft": {"teacher": sft, student: sft}})
    folder.mkdir(parents=True, exist_ok=True)
    write_yaml(folder / PARAMS, document, comment="Of a benchmark.")
    if not (folder / PRESETS).exists():
        link(folder / PRESETS, PRESETS.resolve())
    with chdir(folder):
        follow_params()
        if not Path("done").is_file():
            _teach()


def _teach() -> None:
    base = read_yaml(ROUNDS)["teacher_dir"]
    run_stage("teacher", out=base)
    run_stage("prepare", teacher=base)
    run_stage("sft", name="teacher", model=base, out=TEACHER, log="logs/teacher/sft/train.csv")
    make_corpus()
    run_stage("evaluate", name="teacher", model=TEACHER)
    Path("done").touch()


if __name__ == "__main__":
    main()
