"""The small project of the end-to-end tests: parameters, data, models, and what a user does with it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML

from pipeline.runtime.layout import LAYOUT
from pipeline.runtime.yaml_files import write_yaml
from pipeline.workspace.schedule import ScheduleParams, write_rounds
from stages import prepare, teacher

ROOT = Path(__file__).parents[1]
FILES = ("dvc.yaml", ".dvcignore", "pyproject.toml", "requirements", "presets", "pipeline", "stages", "schemas")
STUDENT = LAYOUT.round("small", "r2").model / "model.safetensors"
FIRST_RUN = [
    *["plan", "teacher", "prepare", "init@small", "generate", "score@corpus", "evaluate@teacher", "report"],
    *[f"{stage}@small-{id_}" for id_ in ("r1", "r2") for stage in ("rollout", "score", "train")],
    *[f"evaluate@small-{checkpoint}" for checkpoint in ("init", "r1", "r2")],
]
PARAMS: dict[str, Any] = {
    "seed": 0,
    "schedule": {"total_steps": 4, "refresh_every": 2, "max_staleness": None},
    "task": {
        "name": "gsm8k",
        "train": 12,
        "heldout": 3,
        "max_prompt_tokens": 160,
        "template": {"text": "{question}\n\nThink step by step.", "chat": True, "system": None, "variables": {}},
        "settings": {
            "data": "data",
            "config": None,
            "revision": None,
            "train_split": "train",
            "heldout_split": "test",
            "question_column": "question",
            "answer_column": "answer",
        },
    },
    "teacher": {"model": "models/teacher", "revision": None, "dtype": "float32"},
    "students": ["small"],
    "student": {"small": {"model": "teacher", "revision": None, "layers": [0, 2], "config": None, "lora": None}},
    "sft": {},
    "corpus": {"references": 3, "generations": 3, "samples_per_prompt": 2},
    "rollout": {
        "prompts": 3,
        "samples_per_prompt": 2,
        "batch_size": 3,
        "precision": "float32",
        "sampling": {
            "max_new_tokens": 8,
            "temperature": 1.0,
            "top_p": 1.0,
            "record_threshold": 0.005,
            "record_max": 16,
            "record_tail_samples": 4,
        },
    },
    "reward": {},
    "scoring": {
        "precision": "float32",
        "batch_size": 1,
        "flush_every": 1,
        "codec": "sqrt8",
        "truncation": {
            "threshold": 0.005,
            "max_entries": 16,
            "samples_per_tail": 8,
            "min_tail": 0.02,
            "temperatures": [1.0],
        },
    },
    "objective": {
        "divergence": {"name": "forward_kl", "beta": 0.5, "skew": 0.1, "normalise": False},
        "temperature": 1.0,
        "tail_estimator": "bucket",
        "tail_samples_scale": 0.3,
        "tail_mean_staleness": 1.0,
        "cross_entropy": 0.0,
        "alpha": 1.0,
        "clip_epsilon": 0.2,
        "chunk_tokens": 64,
    },
    "batches": {
        "batch_size": 4,
        "micro_batch_size": 2,
        "student_fraction": 0.5,
        "corpus_weights": None,
        "shuffle_window": 4,
        "scale_rewards": "none",
    },
    "replay": {"rounds": 0, "weight": 0.5, "max_age": None, "adaptive": False},
    "optimizer": {
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": 1,
        "decay_steps": 64,
        "adam_beta1": 0.9,
        "adam_beta2": 0.95,
        "adam_epsilon": 1e-8,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "precision": "float32",
        "ema_decay": None,
        "disable_dropout": False,
        "gradient_checkpointing": False,
        "save_steps": 1,
        "save_dtype": "float32",
        "keep_rounds": None,
    },
    "evaluation": {
        "prompts": 3,
        "batch_size": 3,
        "max_new_tokens": 8,
        "precision": "float32",
        "temperatures": [0, 1],
        "recorded_prompts": 2,
        "stop_if_worse": False,
    },
}


PATIENCE = 1200.0  # seconds of a `dvc repro`: two minutes of work, on a machine that others overload


class Project:
    """A checkout of its own, with a store of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.env = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "STILLROOM_STORE": str(path / "store"),
            "DVC_SITE_CACHE_DIR": str(path / "site"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "SHELL": "/bin/sh",  # which dvc runs commands in; bash would not stay between dvc and a stage, dash does
        }

    def start(self, *args: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "stages.cli", "repro", *args],
            cwd=self.path,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
        )

    def repro(self, *args: str) -> str:
        """What a `dvc repro` that ends well prints."""
        with self.start(*args) as process:
            try:
                output, _ = process.communicate(timeout=PATIENCE)
            finally:
                process.kill()  # with the stage that it runs
        assert process.returncode == 0, output
        return output

    def stillroom(self, *args: str) -> str:
        """What the command prints on its standard output."""
        command = [sys.executable, "-m", "stages.cli", *args]
        done = subprocess.run(
            command, cwd=self.path, env=self.env, capture_output=True, text=True, check=False, encoding="utf-8"
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def change(self, *keys: str, to: Any) -> None:
        """Change one parameter; the schedule's rounds follow, as `stillroom plan` makes them."""
        document = YAML(typ="safe").load(self.path / "params.yaml")
        target = document
        for key in keys[:-1]:
            target = target[key]
        target[keys[-1]] = to
        self.write_params(document)

    def write_params(self, document: dict[str, Any]) -> None:
        YAML(typ="safe").dump(document, self.path / "params.yaml")
        schedule, stop = ScheduleParams(**document["schedule"]), document["evaluation"]["stop_if_worse"]
        write_rounds(self.path / "rounds.yaml", schedule, document["students"], document["sft"], stop)

    def json(self, name: str) -> Any:
        return json.loads((self.path / name).read_text(encoding="utf-8"))

    def processes(self) -> list[psutil.Process]:
        """Every process that works here, whoever its parent is."""
        processes = []
        for process in psutil.process_iter():
            try:
                if process.cwd() == str(self.path) and process.status() != psutil.STATUS_ZOMBIE:
                    processes.append(process)
            except psutil.Error:
                continue
        return processes

    def stage(self, module: str) -> psutil.Process | None:
        """The Python process that runs a stage, not the shell in front of it."""
        for process in self.processes():
            try:
                line = process.cmdline()
            except psutil.Error:
                continue
            if line[1:3] == ["-m", module]:
                return process
        return None

    def kill_stage(self, module: str, ripe: Callable[[], bool], *args: str) -> None:
        """Start `dvc repro` and kill -9 the stage as soon as `ripe`; dvc has to notice."""
        process = self.start(*args)
        wait_for(lambda: ripe() or process.poll() is not None)
        victim = self.stage(module)
        assert victim is not None, f"{module} was over before it could be killed"
        victim.send_signal(signal.SIGKILL)
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode != 0, output


def wait_for(condition: Callable[[], bool], *, seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


def executed(output: str) -> list[str]:
    """The stages that ran, in alphabetical order."""
    return sorted(re.findall(r"^Running stage '(.*)':", output, re.MULTILINE))


def write_questions(folder: Path) -> None:
    folder.mkdir()
    for name, first, count in (("train", 10, 14), ("test", 50, 4)):
        rows = [
            {"question": f"{n} and {n}?", "answer": f"{n} + {n}\n#### {2 * n}"} for n in range(first, first + count)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make_project(path: Path, make_model_dir: Callable[..., Path]) -> Project:
    """A project at `path` in which nothing has run."""
    path.mkdir()
    for name in FILES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, path / name)
    (path / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc" / "config", path / ".dvc" / "config")
    (path / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n", encoding="utf-8")
    write_questions(path / "data")
    make_model_dir(path / "models" / "teacher", layers=4, seed=1)
    project = Project(path)
    project.write_params(PARAMS)
    return project


def copy_of(project: Project, parent: Path) -> Project:
    return Project(Path(shutil.copytree(project.path, parent / "project", symlinks=True)))


def make_small_job(folder: Path, make_model_dir: Callable[..., Path]) -> None:
    """In `folder`, where the caller stands; the teacher has a name that holds elsewhere too."""
    make_model_dir(folder / "models" / "teacher", layers=4, seed=1, initializer_range=0.2)
    write_sums(folder)
    model = {"model": str(folder / "models" / "teacher"), "revision": None, "dtype": "float32"}
    write_yaml(folder / "params.yaml", PARAMS | {"teacher": model}, comment="Of a test.")
    for command, options in ((teacher.main, ["--out", "work/teacher"]), (prepare.main, ["--teacher", "work/teacher"])):
        command.main(args=options, standalone_mode=False)


def write_sums(folder: Path) -> None:
    """Twelve questions to learn from and four that are held out, where `PARAMS` looks for them."""
    (folder / "data").mkdir()
    for split, start, count in (("train", 0, 12), ("test", 100, 4)):
        rows = [{"question": f"What is {n} + 1?", "answer": f"#### {n + 1}"} for n in range(start, start + count)]
        (folder / "data" / f"{split}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
        )


def run(project: Project, *command: str) -> str:
    """What a command that ends well prints."""
    program = [sys.executable, "-m", command[0], *command[1:]] if command[0] == "dvc" else list(command)
    done = subprocess.run(
        program, cwd=project.path, env=project.env, capture_output=True, text=True, check=False, encoding="utf-8"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def committed(project: Project) -> Project:
    """The same project as a git repository with one commit."""
    (project.path / ".dvc/config.local").unlink()
    (project.path / ".gitignore").write_text(
        (ROOT / ".gitignore").read_text(encoding="utf-8") + "/store/\n/site/\n", encoding="utf-8"
    )
    who = {"NAME": "a", "EMAIL": "a@localhost"}
    project.env |= {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in who.items()}
    run(project, "git", "init", "-q")
    run(project, "git", "add", ".")
    run(project, "git", "commit", "-q", "-m", "one")
    return project
