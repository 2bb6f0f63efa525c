"""The path of every file that a project reads or writes, in one place.

dvc.yaml lists the same paths; tests/test_architecture.py compares the two.
"""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RolloutFiles:
    """Rollouts and their teacher scores: those of one round, or the fixed corpus."""

    directory: Path

    @property
    def rollouts(self) -> Path:
        """The Parquet file of prompts and completions."""
        return self.directory / "rollouts.parquet"

    @property
    def segment(self) -> Path:
        """The directory of teacher scores, one sequence per rollout, in the same order."""
        return self.directory / "segment"


@dataclass(frozen=True, slots=True)
class RoundFiles(RolloutFiles):
    """The files of a round of a student. The start of a student (`init`) has a model only."""

    log: Path
    """The training log, a CSV file with one row per optimizer step."""

    @property
    def model(self) -> Path:
        """The model directory at the end of the round."""
        return self.directory / "model"

    @property
    def optimizer(self) -> Path:
        """The state of the optimizer at the end of the round."""
        return self.directory / "optimizer.pt"


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of the project in the directory `root`."""

    root: Path

    @property
    def params(self) -> Path:
        """The parameters of every stage."""
        return self.root / "params.yaml"

    @property
    def rounds(self) -> Path:
        """The items of every loop in dvc.yaml, which `stillroom plan` writes."""
        return self.root / "rounds.yaml"

    @property
    def work(self) -> Path:
        """The directory of everything that stages hand to each other."""
        return self.root / "work"

    @property
    def plan(self) -> Path:
        """The constant output of the stage `plan`; other stages depend on it to run after the checks."""
        return self.work / "plan.json"

    @property
    def teacher(self) -> Path:
        """The model directory of the teacher that scores."""
        return self.work / "teacher"

    @property
    def untuned_teacher(self) -> Path:
        """The teacher before supervised fine-tuning, where params.yaml asks for it."""
        return self.work / "base"

    @property
    def prompts(self) -> Path:
        """The tokenized prompts of both splits."""
        return self.work / "prompts" / "prompts.parquet"

    @property
    def ranks(self) -> Path:
        """The token ids by frequency, which the codecs use."""
        return self.work / "prompts" / "ranks.npy"

    @property
    def corpus(self) -> RolloutFiles:
        """The fixed corpus: references and completions of the teacher."""
        return RolloutFiles(self.work / "corpus")

    @property
    def costs(self) -> Path:
        """The directory with one file per stage: seconds, tokens, version of the code."""
        return self.work / "costs"

    @property
    def evaluations(self) -> Path:
        """The directory with two files per evaluated checkpoint."""
        return self.work / "evaluations"

    @property
    def logs(self) -> Path:
        """The directory of training logs."""
        return self.root / "logs"

    @property
    def report(self) -> Path:
        """The directory of the report's figures, plots and page."""
        return self.root / "report"

    def base(self, student: str) -> Path:
        """Return the directory of a LoRA student's frozen weights; other students have a README.md in it."""
        return self.work / student / "base"

    def round(self, student: str, round_id: str) -> RoundFiles:
        """Return the files of a round; `init` is the start, `untuned` the start before supervised fine-tuning.

        The log of supervised fine-tuning is in the round `sft`.
        """
        return RoundFiles(self.work / student / round_id, log=self.logs / student / round_id / "train.csv")

    def cost(self, name: str) -> Path:
        """Return the file with the cost of one stage, such as `small-r1-train`."""
        return self.costs / f"{name}.json"

    def evaluation(self, name: str) -> Path:
        """Return the evaluation of `teacher` or of a checkpoint such as `small-r1`.

        A Parquet file of the same stem has the token-by-token comparison of some completions.
        """
        return self.evaluations / f"{name}.json"


LAYOUT = Layout(Path())
"""The project in the current directory, in which stages and commands run."""


def store_root() -> Path:
    """Return the directory of the store, which checkouts may share and no stage depends on."""
    return Path(os.environ.get("STILLROOM_STORE", ".store"))


PARAMS = LAYOUT.params
TEACHER = LAYOUT.teacher
PROMPTS = LAYOUT.prompts
RANKS = LAYOUT.ranks
COSTS = LAYOUT.costs
EVALUATIONS = LAYOUT.evaluations
