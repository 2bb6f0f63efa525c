"""What the schedule still asks of the teacher: positions, bytes in the store, seconds; and what each figure rests on.

Rollouts that exist count exactly, less what the store has, and are taken as they lie there, current or not. Those to
come are estimated: their number from params.yaml; their length from the student's latest round, every later round going
half of the way that is left to the length of the teacher's own completions, because that is whom it learns from; bytes
from the same scorer's segments, the corpus and the students' rounds apart; seconds from work/costs.
Cost: two seconds; neither models nor torch are loaded. Measured on the default job (docs/decisions.md): a round that is
written comes out within 10 % of its bytes once another round, or eight of its own sequences, are scored.
Not taken: asking DVC which stages would run, which hashes every dependency; all rounds as long as the latest (25 % too
many bytes).
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, TypeAlias

import pyarrow.parquet as pq

from pipeline.core.prompt_sharing import tokens_to_read
from pipeline.core.types import Prompt, Rollout
from pipeline.rollout.collect import CorpusParams, RolloutParams
from pipeline.scoring.score import ScoringParams
from pipeline.store.keys import key_of, unknown
from pipeline.store.lookup import find_known
from pipeline.store.manifest import is_chunk, read_manifest

Kind: TypeAlias = Literal["corpus", "student"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreStage:
    """One score stage of the schedule; in its order."""

    name: str
    student: str | None  # None: the corpus
    rollouts: list[Rollout] | None  # None: not written yet


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringEstimate:
    """What one score stage still asks of the teacher."""

    name: str
    known: int  # positions that the store has
    positions: int
    tokens: int  # that the teacher reads
    bytes: int | None  # in the store; None where nothing tells
    seconds: float | None
    basis: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Something measured a unit, and on what."""

    value: float
    basis: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Of a segment of the store; bytes."""

    kind: Kind
    positions: int
    payload: int  # the arrays' chunks, which grow with the positions
    rest: int  # all other files but the ranks: alike for segments of as many sequences


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastInputs:
    """What the figures rest on."""

    prompts: Sequence[Prompt]  # for training; none yet means the longest that params.yaml admits
    max_prompt_tokens: int
    corpus: CorpusParams
    rollout: RolloutParams
    flush_every: int  # sequences of a segment
    store: Path
    scorer: str | None
    sizes: Mapping[str, Size]  # of the scorer's segments, by their names
    seconds_rate: Rate | None  # a token that the teacher reads


@dataclass(frozen=True, slots=True, kw_only=True)
class _Workload:
    """What the teacher has to read, counted or estimated."""

    known: int
    sequences: int
    positions: int
    tokens: int
    segments: Collection[str]  # that hold what is known
    basis: str


def forecast(works: Sequence[ScoreStage], g: ForecastInputs) -> list[ScoringEstimate]:
    """One need for each work, in order."""
    return [_need(work, _reading(works[:index], work, g), g) for index, work in enumerate(works)]


def find_scorer(paths: Sequence[Path], teacher: str, p: ScoringParams) -> str | None:
    """The scorer of these parameters, by the newest segment of the store that they wrote; None where there is none."""
    dtypes = {"auto": ("torch.float32", "torch.bfloat16")}.get(p.precision, (f"torch.{p.precision}",))
    support = p.truncation.identity()
    written = {path: read_manifest(path) for path in paths}
    alike = [
        path
        for path, one in written.items()
        if (one.teacher, one.codec, one.scoring.get("support")) == (teacher, p.codec, support) and one.dtype in dtypes
    ]
    newest = max(alike, key=lambda one: (one / "manifest.json").stat().st_mtime, default=None)
    return written[newest].scorer if newest else None


def store_sizes(paths: Sequence[Path], scorer: str | None) -> dict[str, Size]:
    """Those of this scorer's segments, by name."""
    found: dict[str, Size] = {}
    for path in paths:
        manifest = read_manifest(path)
        if manifest.scorer == scorer:
            sources = pq.ParquetFile(path / "index.parquet").read(columns=["source"])["source"].to_pylist()
            payload = sum(one.size_bytes for name, one in manifest.files.items() if is_chunk(name))
            total = sum(one.size_bytes for name, one in manifest.files.items() if name != "ranks.parquet")
            kind: Kind = "student" if "student" in sources else "corpus"
            found[path.name] = Size(kind=kind, positions=manifest.positions, payload=payload, rest=total - payload)
    return found


def teacher_rate(costs: Mapping[str, Mapping[str, Any]]) -> Rate | None:
    """Seconds a token that the teacher reads, loading it included, over the score stages that asked it."""
    asked = [one for name, one in costs.items() if name.endswith("-score") and one["tokens"]]
    if not asked:
        return None
    value = sum(one["seconds"] for one in asked) / sum(one["tokens"] for one in asked)
    return Rate(value=value, basis=f"{len(asked)} score stages")


def _need(work: ScoreStage, reading: _Workload, g: ForecastInputs) -> ScoringEstimate:
    size, said = _size(work, reading, g)
    time = f"{1 / g.seconds_rate.value:.0f} tokens/s of {g.seconds_rate.basis}" if g.seconds_rate else "no stage timed"
    nothing = not reading.positions
    return ScoringEstimate(
        name=work.name,
        known=reading.known,
        positions=reading.positions,
        tokens=reading.tokens,
        bytes=0 if nothing else size,
        seconds=0.0 if nothing else reading.tokens * g.seconds_rate.value if g.seconds_rate else None,
        basis=reading.basis if nothing else f"{reading.basis}; {said}; {time}",
    )


def _size(work: ScoreStage, reading: _Workload, g: ForecastInputs) -> tuple[int | None, str]:
    """Bytes in the store, and what they rest on: first on what is there of the same sequences, then on the like."""
    kind: Kind = "student" if work.student else "corpus"
    own = [size for name, size in g.sizes.items() if name in reading.segments]
    alike = [size for size in g.sizes.values() if size.kind == kind]
    some = own or alike or [*g.sizes.values()]
    if not some:
        return None, "bytes need a sample: --sample N, or `dvc repro corpus`"
    rate = sum(size.payload for size in some) / max(1, sum(size.positions for size in some))
    rest, count = fmean(size.rest for size in some), math.ceil(reading.sequences / g.flush_every)
    what = "with some of its own sequences" if own else f"of {'rollouts' if some[0].kind == 'student' else 'corpora'}"
    basis = f"{rate:.1f} B/position and {rest:,.0f} B a segment as in {len(some)} segments {what}"
    return round(reading.positions * rate + count * rest), basis


def _reading(before: Sequence[ScoreStage], work: ScoreStage, g: ForecastInputs) -> _Workload:
    if work.rollouts is not None:
        return _counted(work.rollouts, g)
    if work.student is None:
        return _corpus(g)
    asked = min(g.rollout.prompts, len(g.prompts) or g.rollout.prompts)
    length, basis = _length(before, work.student, g.rollout.sampling.max_new_tokens)
    count = asked * g.rollout.samples_per_prompt
    return _estimated(asked, count, count * length, f"{count} completions of {length:.1f} tokens, {basis}", g)


def _counted(rollouts: Sequence[Rollout], g: ForecastInputs) -> _Workload:
    keys = [key_of(one) for one in rollouts]
    found = {one.key: one.segment for one in find_known(g.store, g.scorer, keys)} if g.scorer else {}
    missing = unknown(rollouts, found)
    known = _positions([one for one, key in zip(rollouts, keys, strict=True) if key in found])
    return _Workload(
        known=known,
        sequences=len(missing),
        positions=_positions(missing),
        tokens=tokens_to_read(missing),
        segments={*found.values()},
        basis="its rollouts, counted",
    )


def _corpus(g: ForecastInputs) -> _Workload:
    most, written = g.rollout.sampling.max_new_tokens, g.corpus.generations * g.corpus.samples_per_prompt
    reference = fmean(len(one.reference_ids) for one in g.prompts) if g.prompts else most
    basis = f"{g.corpus.references} references of {reference:.1f} tokens, {written} completions of {most} (the most)"
    asked = max(g.corpus.references, g.corpus.generations)
    return _estimated(asked, g.corpus.references + written, g.corpus.references * reference + written * most, basis, g)


def _estimated(prompts: int, sequences: int, positions: float, basis: str, g: ForecastInputs) -> _Workload:
    prompt = fmean(len(one.prompt_ids) for one in g.prompts) if g.prompts else g.max_prompt_tokens
    tokens = round(positions + prompts * prompt)
    return _Workload(known=0, sequences=sequences, positions=round(positions), tokens=tokens, segments=(), basis=basis)


def _length(before: Sequence[ScoreStage], student: str, most: int) -> tuple[float, str]:
    """Tokens of a completion to come, and why."""
    written = [one for one in before if one.student and one.rollouts]
    latest = next((one for one in reversed(written) if one.student == student), written[-1] if written else None)
    if latest is None:
        return most, "the most"
    teachers = [one for some in before for one in some.rollouts or [] if one.source == "teacher"]
    length = _mean_length([one for one in latest.rollouts or [] if one.source == "student"])
    if not teachers:
        return length, f"as in {latest.name}"
    rounds = 1 + sum(one.student == student and one.rollouts is None for one in before)
    goal = _mean_length(teachers)
    return goal + (length - goal) / 2**rounds, f"from {length:.1f} in {latest.name} towards the teacher's {goal:.1f}"


def _mean_length(rollouts: Sequence[Rollout]) -> float:
    return _positions(rollouts) / len(rollouts)


def _positions(rollouts: Sequence[Rollout]) -> int:
    return sum(len(one.completion_ids) for one in rollouts)
