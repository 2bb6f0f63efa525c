"""Measure bytes per position and the error of the gradient from stored scores, for several configurations of the store.

    python -m bench.store.bytes --json FILE

- Error: |g - g_dense| / |g_dense| over all positions, where g is the gradient of the divergence with respect to the
  student's logits. The same is reported for the gradient of the head's weights over batches of 1,024 positions, in
  which noise from position to position averages out.
- Bytes: the chunks of the Zarr payload. The metadata of a segment, about 20 kB, is not counted.
- All scores go through a segment on disk, except the float32 rows, whose bytes are counted (8 per entry).

The benchmark needs a run of the default job (its teacher) and GSM8K under STILLROOM_DATA.
"""

import itertools
import os
import tempfile
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.collation import collate_scores
from bench.output import Row, show
from bench.store.populations import Population, load_prompts, populations
from bench.store.segments import placeholder_header
from pipeline.core.hashing import derive_seed
from pipeline.core.types import ScoredSequence, Scores, Source, TokenSequence
from pipeline.losses import tail_estimators
from pipeline.losses.batch import TeacherRows
from pipeline.losses.divergences import DIVERGENCES, DivergenceParams
from pipeline.losses.fused_linear import StudentLogits
from pipeline.models.tokenizer import load_tokenizer, shared_vocab
from pipeline.runtime.config import lookup, section
from pipeline.runtime.layout import LAYOUT
from pipeline.scoring.score import ScoringParams
from pipeline.scoring.scorer import TruncationParams
from pipeline.scoring.truncate import truncate
from pipeline.store.ragged import join_scores
from pipeline.store.segment_reader import Segment
from pipeline.store.segment_writer import write_segment
from pipeline.tasks.prompts import rank_tokens

Loss = Callable[[Tensor, "Chunk"], Tensor]  # from the student's logits [N, V] to nats [N]

_CHUNK = 256  # positions whose dense distributions exist at once
_BATCH = 1024  # positions of one gradient of the head
_BATCHES = 2  # of them, from the beginning of the texts
_DIVERGENCES = {
    name: DIVERGENCES[name](DivergenceParams(name=name, beta=0.5, skew=0.0, normalise=False))
    for name in ("forward_kl", "reverse_kl", "jsd")
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """What a loss is given at N positions beside the student's logits."""

    ids_NK: Tensor
    tail_sample_ids_NJ: Tensor
    rows: TeacherRows
    rounded_ND: Tensor
    """Hidden states of the teacher with matrix products in bfloat16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What is stored of scores, and the losses that are computed from it."""

    name: str
    truncation: TruncationParams
    student_support: Container[Source]
    """Sources of the texts that are stored with student-support tokens and the tail mean."""

    codec: str | None
    """None stores float32 and int32 without a codec."""

    losses: Mapping[str, Loss]
    """The loss of each divergence."""


def student_logits(z_NV: Tensor, chunk: Chunk) -> StudentLogits:
    """Return what the pipeline's loss uses of these logits."""
    padding_NK = torch.isneginf(chunk.rows.logp_NK)
    others_NV = z_NV.scatter(-1, chunk.ids_NK, -torch.inf)
    return StudentLogits(
        stored_NK=z_NV.gather(-1, chunk.ids_NK).masked_fill(padding_NK, -torch.inf),
        unstored_N=others_NV.logsumexp(-1),
        tail_sample_NJ=z_NV.gather(-1, chunk.tail_sample_ids_NJ),
        token_N=z_NV[:, 0],
        token_logp_N=z_NV[:, 0],
        unstored_entropy_N=torch.special.entr(others_NV.softmax(-1)).sum(-1),
    )


def pipeline_loss(name: str, *, tail_samples_scale: float | None = None) -> Loss:
    """Return the pipeline's loss with the other-token bucket, or with tail samples where a scale is given."""
    scale = tail_samples_scale
    estimator = tail_estimators.bucket if scale is None else partial(tail_estimators.tail_samples, scale=scale)
    return lambda z_NV, chunk: estimator(_DIVERGENCES[name], student_logits(z_NV, chunk), chunk.rows)


def tail_mean_loss(name: str) -> Loss:
    """Return the pipeline's loss with the tail mean, for a student that has not been trained since it sampled."""

    def loss(z_NV: Tensor, chunk: Chunk) -> Tensor:
        zero_N = torch.zeros_like(chunk.rows.tail_N)
        rows = replace(chunk.rows, behaviour_logp_N=zero_N)
        logits = replace(student_logits(z_NV, chunk), token_logp_N=zero_N)
        return tail_estimators.tail_mean(_DIVERGENCES[name], logits, rows, staleness=1.0)

    return loss


def rounded(name: str, texts: Population) -> Loss:
    """Return the dense divergence from the teacher in bfloat16, which shows the effect of the teacher's rounding."""

    def loss(z_NV: Tensor, chunk: Chunk) -> Tensor:
        logp_NV = texts.teacher_head(chunk.rounded_ND).log_softmax(-1)
        return _DIVERGENCES[name](logp_NV, z_NV.log_softmax(-1))

    return loss


def renormalised(name: str) -> Loss:
    """Return the usual loss on the stored tokens alone, with teacher probabilities that are renormalised to 1."""

    def loss(z_NV: Tensor, chunk: Chunk) -> Tensor:
        logq_NK = z_NV.log_softmax(-1).gather(-1, chunk.ids_NK)
        logq_NK = logq_NK.masked_fill(torch.isneginf(chunk.rows.logp_NK), -torch.inf)
        return _DIVERGENCES[name](chunk.rows.logp_NK.log_softmax(-1), logq_NK)

    return loss


def configurations(p: ScoringParams, tail_samples_scale: float) -> list[Configuration]:
    """Return the configurations; the first is the default of params.yaml with its scale of tail samples."""

    def configuration(
        name: str,
        losses: Mapping[str, Loss],
        *,
        student_support: Container[Source] = ("student",),
        codec: str | None = p.codec,
        **changes: Any,
    ) -> Configuration:
        truncation = replace(p.truncation, **changes)
        return Configuration(
            name=name, truncation=truncation, student_support=student_support, codec=codec, losses=losses
        )

    bucket = {name: pipeline_loss(name) for name in _DIVERGENCES}
    mixed = {"forward_kl": pipeline_loss("forward_kl", tail_samples_scale=tail_samples_scale)}
    sampled = {"forward_kl": pipeline_loss("forward_kl", tail_samples_scale=0.0)}
    usual = {name: renormalised(name) for name in _DIVERGENCES}
    best = bucket | mixed | {name: tail_mean_loss(name) for name in ("reverse_kl", "jsd")}
    all_texts: dict[str, Any] = {"student_support": ("student", "dataset")}
    no_samples = all_texts | {"samples_per_tail": 0.0}
    teacher_only: dict[str, Any] = {"samples_per_tail": 0.0, "student_support": ()}
    top64: dict[str, Any] = teacher_only | {"threshold": 0.0, "max_entries": 64}
    rskd: dict[str, Any] = {"student_support": (), "threshold": 1.0, "samples_per_tail": 50.0, "min_tail": 0.0}
    return [
        configuration("default", best),
        configuration("default, references too", best, **all_texts),
        configuration("no tail samples, no tail mean", bucket, **no_samples),
        configuration("teacher's tokens only", bucket, **teacher_only),
        configuration("teacher's tokens only, p > 0.01", bucket, **teacher_only | {"threshold": 0.01}),
        configuration("p > 0.002", bucket, threshold=0.002, **no_samples),
        configuration("p > 0.01", bucket, threshold=0.01, **no_samples),
        configuration("top-64 fp32, bucket", bucket, codec=None, **top64),
        configuration("top-64 fp32, renormalised", usual, codec=None, **top64),
        configuration("top-64 fp16, bucket", bucket, codec="topk", **top64),
        configuration("RS-KD, 50 samples, top-1 and sampled token", sampled, codec="rskd", **rskd),
        configuration("default, tail samples alone", sampled),
    ]


def stored(configuration: Configuration, texts: Population, ranks: NDArray[Any], scratch: Path) -> tuple[Scores, float]:
    """Return the population's scores after a round trip through a segment, and the payload's bytes per position."""
    sequences = list(_scored(configuration, texts))
    if configuration.codec is None:
        scores = join_scores([sequence.scores for sequence in sequences], 1)
        return scores, 8 * float(scores.top.counts.mean())
    path = scratch / f"{texts.student} {configuration.name}"
    manifest = write_segment(path, sequences, placeholder_header(configuration.codec, len(ranks)), ranks)
    chunks = [entry.size_bytes for name, entry in manifest.files.items() if "/c." in name]
    scores = join_scores(Segment.open(path).read(0, len(sequences)), 1)
    return scores, sum(chunks) / manifest.positions


@torch.inference_mode()
def _scored(configuration: Configuration, texts: Population) -> Iterator[ScoredSequence]:
    spans = torch.split(texts.teacher_ND, [len(rollout.completion_ids) for rollout in texts.rollouts])
    for rollout, hidden_TD in zip(texts.rollouts, spans, strict=True):
        bare = replace(rollout, support_ids=[], tail_sample_ids=[], tail_offset=[])
        recorded = rollout if rollout.source in configuration.student_support else bare
        seed = derive_seed(rollout.rollout_id)
        to_score = TokenSequence(
            prompt_ids=[],
            completion_ids=rollout.completion_ids,
            support_ids=recorded.support_ids,
            tail_sample_ids=recorded.tail_sample_ids,
            tail_offset=recorded.tail_offset,
        )
        scores = truncate(texts.teacher_head(hidden_TD), to_score, configuration.truncation, seed=seed)
        yield ScoredSequence(rollout=rollout, scores=scores)


def errors(losses: Mapping[str, Loss], texts: Population, batch: TeacherRows) -> Row:
    """Return the relative errors of the gradient at the logits and of the head's weights, for each divergence."""
    row: Row = {}
    for name, loss in losses.items():
        batches = [range(start, start + _BATCH, _CHUNK) for start in range(0, _BATCHES * _BATCH, _BATCH)]
        sums = sum(_squared_norms(name, loss, texts, batch, starts) for starts in batches)
        logits, dense_logits, head, dense_head = np.sqrt(sums).tolist()
        row |= {f"{name}_{texts.student}": logits / dense_logits, f"{name}_head_{texts.student}": head / dense_head}
    return row


def _squared_norms(name: str, loss: Loss, texts: Population, batch: TeacherRows, starts: range) -> NDArray[np.float64]:
    """Return four squared norms: error and gradient at the logits, error and gradient of the head's weights."""
    squares = np.zeros(2)
    weights: list[Tensor | float] = [0.0, 0.0]
    for start in starts:
        positions = slice(start, start + _CHUNK)
        dense_NV, stored_NV = _gradients(name, loss, texts, batch, positions)
        for side, gradient_NV in enumerate((stored_NV - dense_NV, dense_NV)):
            squares[side] += gradient_NV.square().sum().item()
            weights[side] = weights[side] + gradient_NV.T @ texts.student_ND[positions]
    return np.append(squares, [torch.as_tensor(weight).square().sum().item() for weight in weights])


def _gradients(name: str, loss: Loss, texts: Population, batch: TeacherRows, positions: slice) -> tuple[Tensor, Tensor]:
    """Return the gradients of the dense and of the stored divergence with respect to the student's logits [N, V]."""
    ids_NK = batch.ids_NK[positions].long()
    with torch.no_grad():
        logp_NV = texts.teacher_head(texts.teacher_ND[positions]).log_softmax(-1)
        z_NV = texts.student_head(texts.student_ND[positions])
    chunk = Chunk(
        ids_NK=ids_NK,
        tail_sample_ids_NJ=batch.tail_sample_ids_NJ[positions].long(),
        rows=batch[positions],
        rounded_ND=texts.rounded_ND[positions],
    )
    z_NV.requires_grad_()
    dense_N, stored_N = _DIVERGENCES[name](logp_NV, z_NV.log_softmax(-1)), loss(z_NV, chunk)
    (dense_NV,), (stored_NV,) = (torch.autograd.grad(loss_N.sum(), z_NV) for loss_N in (dense_N, stored_N))
    return dense_NV, stored_NV


@click.command(help=__doc__)
@click.option("--json", "out", type=Path, help="Write the rows here as well.")
@click.option("--prompts", default=40, show_default=True, help="Prompts of each student's texts.")
def main(out: Path | None, prompts: int) -> None:
    """Run the benchmark and print its table."""
    p = section(LAYOUT.params, ScoringParams, "scoring")
    texts = load_prompts(LAYOUT.teacher, Path(os.environ.get("STILLROOM_DATA", "../shared/data")), prompts)
    ranks = rank_tokens(texts, shared_vocab(load_tokenizer(LAYOUT.teacher)))
    rows: dict[str, Row] = {}
    with tempfile.TemporaryDirectory() as folder:
        for population in populations(LAYOUT.teacher, texts, Path(folder)):
            for name, values in measure(p, population, ranks, Path(folder)):
                rows[name] = rows.get(name, {"name": name}) | values
                click.echo(f"{population.student}: {name}: {values}", err=True)
    for row in rows.values():
        if "bytes_near" in row:
            row["bytes_per_position"] = (row["bytes_near"] + row["bytes_far"]) / 2
    show(_table([*rows.values()]), [*rows.values()], out)


def measure(p: ScoringParams, texts: Population, ranks: NDArray[Any], scratch: Path) -> Iterator[tuple[str, Row]]:
    """Yield rows of one population: the KL between teacher and student, and each configuration.

    Raises:
        click.UsageError: If the texts have too few positions.
    """
    if len(texts.teacher_ND) < _BATCH * _BATCHES:
        raise click.UsageError(
            f"--prompts: {len(texts.teacher_ND)} positions, {_BATCH * _BATCHES} are needed; raise it"
        )
    yield "forward KL, nats", {f"nats_{texts.student}": _distance(texts)}
    # The tail mean is used only for completions of the student itself.
    own = [replace(rollout, source="student") for rollout in texts.rollouts]
    for configuration in configurations(p, lookup(LAYOUT.params, "objective", "tail_samples_scale")):
        scores, size = stored(configuration, texts, ranks, scratch)
        batch = collate_scores(own, scores, temperature=1.0, column=0).rows.to(torch.device("cpu"))
        yield configuration.name, {f"bytes_{texts.student}": size} | errors(configuration.losses, texts, batch)
    yield "teacher in bf16, dense", errors({name: rounded(name, texts) for name in _DIVERGENCES}, texts, batch)


@torch.inference_mode()
def _distance(texts: Population) -> float:
    """Return the mean dense forward KL over all positions, in nats per token."""
    total = 0.0
    for p_ND, q_ND in zip(torch.split(texts.teacher_ND, _CHUNK), torch.split(texts.student_ND, _CHUNK), strict=True):
        logp_NV, logq_NV = texts.teacher_head(p_ND).log_softmax(-1), texts.student_head(q_ND).log_softmax(-1)
        total += _DIVERGENCES["forward_kl"](logp_NV, logq_NV).sum().item()
    return total / len(texts.teacher_ND)


def _table(rows: Sequence[Row]) -> list[list[str]]:
    columns = [key for key in dict.fromkeys(itertools.chain.from_iterable(rows)) if key != "name"]
    cells = [[f"{row[key]:.3g}" if key in row else "" for key in columns] for row in rows]
    return [["configuration", *columns], *([row["name"], *line] for row, line in zip(rows, cells, strict=True))]


if __name__ == "__main__":
    main()
