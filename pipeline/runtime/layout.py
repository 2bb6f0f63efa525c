"""The path of every file that a project reads or writes, and the rounds of rounds.yaml, in one place.

dvc.yaml lists the same paths; tests/test_architecture.py compares the two.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class RolloutFiles:
    """Rollouts and their teacher scores: those of one round, or the fixed corpus."""

    def __init__(self, directory: Path) -> None:
        """Name the files in `directory`."""
        self.directory = directory
        self.rollouts = directory / "rollouts.parquet"
        # The directory of teacher scores, one sequence per rollout, in the same order.
        self.segment = directory / "segment"


class RoundFiles(RolloutFiles):
    """The files of one round of a student. The start of a student (`init`) has a model only."""

    def __init__(self, directory: Path, log: Path) -> None:
        """Name the files in `directory`, and the log."""
        super().__init__(directory)
        self.model = directory / "model"
        self.optimizer = directory / "optimizer.pt"
        self.log = log  # The training log, a CSV file with one row per optimizer step


class Layout:
    """The paths of the project in one directory."""

    def __init__(self, root: Path) -> None:
        """Name the files of the project in `root`."""
        self.root = root
        self.params = root / "params.yaml"
        # The items of every loop in dvc.yaml, which `stillroom plan` writes.
        self.rounds = root / "rounds.yaml"
        self.work = root / "work"  # The directory of everything that stages hand to each other
        # The constant output of the stage `plan`, so that other stages run after the checks.
        self.plan = self.work / "plan.json"
        # What each student starts as and trains with, every default written out.
        self.students = self.work / "students"
        self.teacher = self.work / "teacher"  # The model directory of the teacher that scores
        # The teacher before supervised fine-tuning, where params.yaml asks for fine-tuning.
        self.untuned_teacher = self.work / "base"
        # The directory of the tokenized prompts, one file per split, so that held-out prompts train nothing again.
        self.prompts = self.work / "prompts"
        # The token ids by frequency, which the codecs use.
        self.ranks = self.prompts / "ranks.npy"
        # The fixed corpus: references and completions of the teacher.
        self.corpus = RolloutFiles(self.work / "corpus")
        # The directory with one file per stage: seconds, tokens, version of the code.
        self.costs = self.work / "costs"
        # The directory with four files per evaluated checkpoint.
        self.evaluations = self.work / "evaluations"
        self.logs = root / "logs"
        self.report = root / "report"

    def student_start(self, student: str) -> Path:
        """Return the file with the section `student.NAME` of params.yaml, complete."""
        return self.students / student / "start.json"

    def student_optimizer(self, student: str) -> Path:
        """Return the file with the section `optimizer` of params.yaml as it holds for a student."""
        return self.students / student / "optimizer.json"

    def base(self, student: str) -> Path:
        """Return the directory of a LoRA student's frozen weights; other students have a README.md in it."""
        return self.work / student / "base"

    def round(self, student: str, round_id: str) -> RoundFiles:
        """Return the files of a round.

        Args:
            student: The name of the student. The teacher has a log of the round `sft`.
            round_id: `r1` and so on, `init` for the start, `untuned` for the start before supervised fine-tuning, or
                `sft` for the log of the fine-tuning.
        """
        return RoundFiles(self.work / student / round_id, log=self.logs / student / round_id / "train.csv")

    def cost(self, name: str) -> Path:
        """Return the file with the cost of one stage, such as `small-r1-train`."""
        return self.costs / f"{name}.json"

    def evaluation(self, name: str) -> Path:
        """Return the evaluation of `teacher` or of a checkpoint such as `small-r1`.

        A Parquet file of the same stem holds the token-by-token comparison of some completions.
        """
        return self.evaluations / f"{name}.json"

    def prompt_metrics(self, name: str) -> Path:
        """Return the file with what each held-out prompt adds to the metrics of `teacher` or of a checkpoint."""
        return self.evaluations / "prompts" / f"{name}.parquet"

    def verdict(self, name: str) -> Path:
        """Return the file that says whether training made the student of a checkpoint worse, more than in part."""
        return self.evaluations / "verdicts" / f"{name}.json"


LAYOUT = Layout(Path())  # The project in the current directory, in which stages and commands run


def store_root() -> Path:
    """Return the directory of the store, which checkouts may share and no stage depends on."""
    return Path(os.environ.get("STILLROOM_STORE", ".store"))


def round_list(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rounds of rounds.yaml, each once: {id, prev, first_step, steps}."""
    rounds = {item["round"]: item for item in document["rounds"].values()}
    return [{"id": id_} | {key: item[key] for key in ("prev", "first_step", "steps")} for id_, item in rounds.items()]


def cost_names(document: Mapping[str, Any]) -> list[str]:
    """Return the names in work/costs of every stage that writes one: the shared stages, then student by student."""
    tuned = document["tuned"]
    names = ["teacher", "prepare", *(["teacher-sft"] if "teacher" in tuned else [])]
    names += ["generate", "corpus-score", "teacher-evaluate"]
    for student in document["starts"]:
        rounds = [name for name, item in document["rounds"].items() if item["student"] == student]
        names += [f"{student}-init", *([f"{student}-sft"] if student in tuned else []), f"{student}-init-evaluate"]
        names += [f"{name}-{stage}" for name in rounds for stage in ("rollout", "score", "train", "evaluate")]
    return names
