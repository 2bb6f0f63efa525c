"""One round of optimizer steps: its settings, its sequences, and the record of it in the lineage."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from pipeline.core.files import read_rollouts
from pipeline.core.hashing import digest, tree_digest
from pipeline.core.types import Rollout
from pipeline.lineage.records import Round, Scored
from pipeline.losses.objective import ObjectiveParams, check_objective, temperature_column
from pipeline.runtime.layout import RolloutFiles
from pipeline.store.segment_reader import Segment
from pipeline.training.batches import BatchParams, Pick, Pool, make_pool, open_pool, plan_steps
from pipeline.training.log import Row
from pipeline.training.mixing import ReplayParams, replay_weight
from pipeline.training.optimizer import OptimizerParams
from pipeline.training.sft import OneHotTeacher


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun:
    """One round of optimizer steps: who trains, on which steps, from where, with which parameters."""

    # The name of the student, or `teacher` where supervised fine-tuning trains the teacher.
    student: str
    round_id: str
    steps: range  # The numbers of the steps, counted from the start of the student
    start: Path  # The model directory at the beginning of the round
    # The optimizer file of the round before, or the reference to it; None begins with a new optimizer.
    optimizer_state: Path | None = None
    objective: ObjectiveParams
    optimizer: OptimizerParams
    batches: BatchParams
    replay: ReplayParams | None = None
    seed: int
    # The tokens that the loss compares. The LM head may have more rows, because models pad their vocabulary.
    vocab_size: int
    # The temperature at which the model's log-probs compare with the sampling log-probs; None: at none.
    behaviour_temperature: float | None = None
    # Nats per token; the round ends after a step with a larger `staleness_kl`. None: never.
    max_staleness: float | None = None
    # The precision of the model that is published; None: float32, in which it trains.
    saved_dtype: torch.dtype | None = None

    @property
    def key(self) -> tuple[int, str, str]:
        """The parts of the seed of every random draw in the round."""
        return self.seed, self.student, self.round_id

    @property
    def rounds_weights(self) -> bool:
        """Whether the published model has fewer bits than the weights in training."""
        return self.saved_dtype not in (None, torch.float32)

    @property
    def parameters(self) -> dict[str, object]:
        """The sections of params.yaml, as the lineage records them: without keys that cannot change the model."""
        record = asdict(self) | {"optimizer": self.optimizer.identity()}
        return {name: record[name] for name in ("seed", "objective", "optimizer", "batches", "replay")}

    def plan(self, data: "TrainingData") -> list[list[list[Pick]]]:
        """Return the micro-batches of every step."""
        replay = 0.0
        if self.replay is not None:
            nll_B = data.own_segment.index["teacher_nll"].to_numpy()
            replay = replay_weight(self.replay, data.own.rollouts, nll_B)
        return plan_steps(data.own, data.corpus, self.batches, key=self.key, steps=self.steps, replay=replay)

    def fingerprint(self, data: "TrainingData") -> str:
        """Return the digest of everything that the trained model depends on."""
        return digest(
            self.parameters,
            [self.key, self.steps.start, self.steps.stop, self.vocab_size],
            [self.behaviour_temperature, self.max_staleness, str(self.saved_dtype)],
            tree_digest(self.start),
            tree_digest(self.optimizer_state) if self.optimizer_state else None,
            data.identity,
        )

    def describe(self, data: "TrainingData", rows: Sequence[Row], task: str, settings: dict[str, object]) -> Round:
        """Return the record of the round in the lineage of the student.

        Args:
            data: Scored sequences.
            rows: The training log.
            task: The name of the task.
            settings: The settings of the task.
        """
        manifest, source = data.own_segment.manifest, settings.get("data")
        rollouts = [*data.own.rollouts, *data.corpus.rollouts]
        return Round(
            id=self.round_id,
            first_step=self.steps.start,
            steps=len(rows),  # fewer than planned where `max_staleness` ended the round
            teacher=manifest.teacher,
            tokenizer=manifest.tokenizer,
            scorer=manifest.scorer,
            task=task,
            settings=settings,
            hub_data=isinstance(source, str) and not Path(source).expanduser().exists(),
            prompts=digest(sorted({(rollout.prompt_id, tuple(rollout.prompt_ids)) for rollout in rollouts})),
            parameters=self.parameters,
            scored=tuple(
                Scored(name=name, segment=segment.manifest.segment_id, positions=segment.manifest.positions)
                for name, segment in data.segments.items()
            ),
            tokens=sum(row["tokens"] for row in rows),
            read_tokens=sum(row["read_tokens"] for row in rows),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """The sequences that a round trains on, with their teacher distributions."""

    own: Pool  # The student's rollouts, replayed ones included
    corpus: Pool
    # The segments of teacher scores by name, the student's own first; none for references alone.
    segments: Mapping[str, Segment]
    column: int  # The column of the loss temperature in the scores
    identity: str  # Digest of the sequences and their scores

    @classmethod
    def open(cls, run: TrainingRun, own: RolloutFiles, corpus: RolloutFiles, tokenizer: str) -> "TrainingData":
        """Open the rollouts and the scores of a round, and check that they fit together.

        Args:
            run: The round.
            own: The student's rollouts.
            corpus: The fixed corpus.
            tokenizer: The fingerprint of the student's tokenizer, which the scores must have too.

        Raises:
            ParameterError: The objective is biased by construction, or the scores lack its temperature.
            StoreError: A segment does not hold the tokens of its rollouts, or is of another tokenizer or scorer.
        """
        check_objective(run.objective)
        of_corpus = Segment.open(corpus.segment, expect={"tokenizer": tokenizer})
        of_own = Segment.open(own.segment, expect={"tokenizer": tokenizer, "scorer": of_corpus.manifest.scorer})
        segments = {f"{run.student}/{run.round_id}": of_own, "corpus": of_corpus}
        return cls(
            own=open_pool(read_rollouts(own.rollouts), of_own, run.batches),
            corpus=open_pool(read_rollouts(corpus.rollouts), of_corpus, run.batches),
            segments=segments,
            column=temperature_column(run.objective, of_own.manifest.temperatures),
            identity=digest(
                [segment.manifest.segment_id for segment in segments.values()],
                [tree_digest(files.rollouts) for files in (own, corpus)],
            ),
        )

    @classmethod
    def of_references(cls, rollouts: Sequence[Rollout], batches: BatchParams) -> "TrainingData":
        """Return references with one-hot teacher distributions, for supervised fine-tuning."""
        nobody, references = (make_pool(part, OneHotTeacher(rollouts=part), batches) for part in ([], rollouts))
        # Without a mask the identity is that of earlier versions.
        texts = [
            (rollout.prompt_ids, rollout.completion_ids, *([rollout.completion_mask] if rollout.is_masked else []))
            for rollout in rollouts
        ]
        return cls(own=nobody, corpus=references, segments={}, column=0, identity=digest(texts))

    @property
    def own_segment(self) -> Segment:
        """The scores of the student's rollouts."""
        return next(iter(self.segments.values()))
