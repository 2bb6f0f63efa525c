"""Estimate what the schedule still has to score: positions, bytes in the store and seconds, each with its basis.

* Rollouts that exist are counted exactly, less the sequences whose scores are in the store.
* Rollouts to come are estimated. params.yaml has their number. Their length starts at the length in the latest round
  of the student, and every later round goes half of the way that is left to the length of the teacher's own
  completions, because the student learns from the teacher. With the length of the latest round alone, the estimate of
  a run came out 25 % too high, and with this rule at most 5 % (docs/decisions/032-forecast-halfway.md).
* Bytes come from segments of the same scorer, and seconds from work/costs.
* Cost: 2 s. Neither a model nor torch is loaded.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow.parquet as pq

from pipeline.core.prompt_sharing import tokens_to_read
from pipeline.core.types import Prompt, Rollout, reference_rollouts
from pipeline.rollout.collect import CorpusParams, RolloutParams
from pipeline.scoring.score import ScoringParams
from pipeline.store.keys import key_of, unknown
from pipeline.store.lookup import find_known
from pipeline.store.manifest import is_chunk, read_manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreStage:
    """One score stage of the schedule."""

    name: str
    student: str | None  # The student that samples the rollouts; None for the fixed corpus
    rollouts: list[Rollout] | None  # The rollouts to score; None while they are not written


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringEstimate:
    """What one score stage still takes."""

    name: str
    known: int = 0  # Positions whose scores are in the store
    segments: tuple[str, ...] = ()  # Segments of the store that hold these scores
    sequences: int  # Sequences that the teacher still has to score
    positions: int  # Their completion tokens
    tokens: int  # Tokens that the teacher reads for these positions, prompts included
    # Bytes that the scores take in the store; None where no segment of the scorer exists.
    bytes: int | None = 0
    seconds: float | None = 0.0  # Seconds of the stage; None where no score stage has been timed
    basis: str  # What the numbers are computed from, for people


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentSize:
    """The size of a segment in the store."""

    student: bool  # Whether it holds completions of a student; otherwise it holds the fixed corpus
    positions: int
    payload: int  # Bytes of the arrays, which grow with the positions
    # Bytes of all other files except the token ranks; they depend on the number of sequences.
    rest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastInputs:
    """The files and parameters that an estimate is computed from."""

    # Training prompts. While there are none, `train` of them count with the longest length that params.yaml admits.
    prompts: Sequence[Prompt]
    train: int
    max_prompt_tokens: int
    corpus: CorpusParams
    rollout: RolloutParams
    flush_every: int  # Sequences per segment
    store: Path
    scorer: str | None
    sizes: Mapping[str, SegmentSize]  # Sizes of the scorer's segments, by name
    costs: Mapping[str, Mapping[str, Any]]  # The files of work/costs, by name


def forecast(stages: Sequence[ScoreStage], inputs: ForecastInputs) -> list[ScoringEstimate]:
    """Return one estimate per stage; the stages are in the order of the schedule."""
    return [_estimate(stages[:index], stage, inputs) for index, stage in enumerate(stages)]


def find_scorer(paths: Sequence[Path], teacher: str, p: ScoringParams) -> str | None:
    """Return the scorer in the newest segment that was written with these parameters, None where there is none.

    Args:
        paths: The segments of the store.
        teacher: The fingerprint of the teacher.
        p: The parameters of scoring.
    """
    dtypes = {"auto": ("torch.float32", "torch.bfloat16")}.get(p.precision, (f"torch.{p.precision}",))
    expected = (teacher, p.codec, p.truncation.identity())
    for path in sorted(paths, key=lambda path: (path / "manifest.json").stat().st_mtime, reverse=True):
        manifest = read_manifest(path)
        written_with = (manifest.teacher, manifest.codec, manifest.scoring.get("support"))
        if written_with == expected and manifest.dtype in dtypes:
            return manifest.scorer
    return None


def store_sizes(paths: Sequence[Path], scorer: str | None) -> dict[str, SegmentSize]:
    """Return the sizes of the segments that a scorer wrote, by name."""
    sizes = {}
    for path in paths:
        manifest = read_manifest(path)
        if manifest.scorer == scorer:
            sources = pq.ParquetFile(path / "index.parquet").read(columns=["source"])["source"].to_pylist()
            payload = sum(file.size_bytes for name, file in manifest.files.items() if is_chunk(name))
            total = sum(file.size_bytes for name, file in manifest.files.items() if name != "ranks.parquet")
            sizes[path.name] = SegmentSize(
                student="student" in sources, positions=manifest.positions, payload=payload, rest=total - payload
            )
    return sizes


def teacher_rate(costs: Mapping[str, Mapping[str, Any]]) -> tuple[float, int] | None:
    """Return the seconds per token that the teacher reads, and the number of score stages that show it.

    The seconds include loading the teacher. Stages that found all scores in the store do not count.
    """
    timed = [cost for name, cost in costs.items() if name.endswith("-score") and cost["tokens"]]
    if not timed:
        return None
    return sum(cost["seconds"] for cost in timed) / sum(cost["tokens"] for cost in timed), len(timed)


def _estimate(before: Sequence[ScoreStage], stage: ScoreStage, inputs: ForecastInputs) -> ScoringEstimate:
    work = _expected(before, stage, inputs) if stage.rollouts is None else _counted(stage.name, stage.rollouts, inputs)
    if not work.positions:
        return work
    size, size_basis = _size(stage, work, inputs)
    rate = teacher_rate(inputs.costs)
    rate_basis = f"{1 / rate[0]:.0f} tokens/s of {rate[1]} score stages" if rate else "no stage timed"
    seconds = work.tokens * rate[0] if rate else None
    return replace(work, bytes=size, seconds=seconds, basis=f"{work.basis}; {size_basis}; {rate_basis}")


def _counted(name: str, rollouts: Sequence[Rollout], inputs: ForecastInputs) -> ScoringEstimate:
    keys = [key_of(rollout) for rollout in rollouts]
    places = find_known(inputs.store, inputs.scorer, keys) if inputs.scorer else []
    segments = {place.key: place.segment for place in places}
    missing = unknown(rollouts, segments)
    return ScoringEstimate(
        name=name,
        known=_positions([rollout for rollout, key in zip(rollouts, keys, strict=True) if key in segments]),
        segments=tuple(sorted({*segments.values()})),
        sequences=len(missing),
        positions=_positions(missing),
        tokens=tokens_to_read(missing),
        basis="its rollouts, counted",
    )


def _expected(before: Sequence[ScoreStage], stage: ScoreStage, inputs: ForecastInputs) -> ScoringEstimate:
    """Estimate the work of a stage before its rollouts are written."""
    most, train = inputs.rollout.sampling.max_new_tokens, len(inputs.prompts) or inputs.train
    if stage.student is None:
        references, generations = inputs.corpus.prompts_of(train)
        completions = generations * inputs.corpus.samples_per_prompt
        reference = fmean(part.positions for part in reference_rollouts(inputs.prompts)) if inputs.prompts else most
        prompts, sequences = max(references, generations), references + completions
        positions = references * reference + completions * most
        basis = f"{references} references of {reference:.1f} tokens, {completions} completions of {most} (the most)"
    else:
        prompts = min(inputs.rollout.prompts, train)
        sequences = prompts * inputs.rollout.samples_per_prompt
        length, reason = _completion_length(before, stage.student, most)
        positions = sequences * length
        basis = f"{sequences} completions of {length:.1f} tokens, {reason}"
    prompt = fmean(len(prompt.prompt_ids) for prompt in inputs.prompts) if inputs.prompts else inputs.max_prompt_tokens
    tokens = round(positions + prompts * prompt)
    return ScoringEstimate(name=stage.name, sequences=sequences, positions=round(positions), tokens=tokens, basis=basis)


def _size(stage: ScoreStage, work: ScoringEstimate, inputs: ForecastInputs) -> tuple[int | None, str]:
    """Return bytes in the store and their basis: segments of the same rollouts, else of the same kind, else any."""
    own = [size for name, size in inputs.sizes.items() if name in work.segments]
    same_kind = [size for size in inputs.sizes.values() if size.student == (stage.student is not None)]
    sizes = own or same_kind or [*inputs.sizes.values()]
    if not sizes:
        return None, "bytes need a sample: --sample N, or `dvc repro score@corpus`"
    rate = sum(size.payload for size in sizes) / max(1, sum(size.positions for size in sizes))
    rest, segments = fmean(size.rest for size in sizes), math.ceil(work.sequences / inputs.flush_every)
    which = "with some of its own sequences" if own else f"of {'rollouts' if sizes[0].student else 'corpora'}"
    basis = f"{rate:.1f} B/position and {rest:,.0f} B per segment as in {len(sizes)} segments {which}"
    return round(work.positions * rate + segments * rest), basis


def _completion_length(before: Sequence[ScoreStage], student: str, most: int) -> tuple[float, str]:
    """Return the expected tokens per completion of a round to come, and the reason; `before` are the stages before."""
    written = [stage for stage in reversed(before) if stage.student and stage.rollouts]
    latest = max(written, key=lambda stage: stage.student == student, default=None)
    if latest is None:
        return most, "the most"
    length = _mean_length([rollout for rollout in latest.rollouts or [] if rollout.source == "student"])
    teachers = [rollout for stage in before for rollout in stage.rollouts or [] if rollout.source == "teacher"]
    if not teachers:
        return length, f"as in {latest.name}"
    rounds = 1 + sum(stage.student == student and stage.rollouts is None for stage in before)
    goal = _mean_length(teachers)
    return goal + (length - goal) / 2**rounds, f"from {length:.1f} in {latest.name} towards the teacher's {goal:.1f}"


def _mean_length(rollouts: Sequence[Rollout]) -> float:
    return _positions(rollouts) / len(rollouts)


def _positions(rollouts: Sequence[Rollout]) -> int:
    return sum(rollout.positions for rollout in rollouts)
