"""Bytes a position, and how far the gradient from stored scores is from the dense one, for ways to store them.

    python -m bench.store.bytes --json FILE

Error: |g - g_dense| / |g_dense| over all positions, g the gradient of the divergence with respect to the student's
logits; and the same for the gradient of the head's weights over batches of 1,024 positions, where what is noise from
position to position averages out. Bytes: the chunks of the Zarr payload; a segment's metadata, about 20 kB, comes on
top. Everything that is stored goes through a segment on disk, but for float32,
which is counted: 8 bytes an entry. Needs a run of the default job (its teacher) and GSM8K
under STILLROOM_DATA.
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

from bench.output import Row, show
from bench.store.populations import Population, load_prompts, populations
from bench.store.segments import nameless
from pipeline.core.hashing import derive_seed
from pipeline.core.types import Scores, Source
from pipeline.losses import tail_estimators as supports
from pipeline.losses.batch import Batch
from pipeline.losses.divergences import DIVERGENCES, DivergenceParams
from pipeline.losses.fused_linear import StudentLogits
from pipeline.losses.tail_estimators import TeacherRows
from pipeline.models.tokenizer import load_tokenizer, shared_vocab
from pipeline.runtime.config import lookup, section
from pipeline.runtime.layout import PARAMS, TEACHER
from pipeline.scoring.score import ScoringParams
from pipeline.scoring.scorer import ToScore, TruncationParams
from pipeline.scoring.truncate import truncate
from pipeline.store.ragged import join_scores
from pipeline.store.records import ScoredSequence
from pipeline.store.segment_reader import Segment
from pipeline.store.segment_writer import write_segment
from pipeline.tasks.prompts import rank_tokens
from pipeline.training.collate import collate_scores
from pipeline.training.loop import to_torch

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
    """What losses may know of N positions beside the student's logits."""

    ids_NK: Tensor
    draw_ids_NJ: Tensor
    rows: TeacherRows
    rounded_ND: Tensor  # the hidden states of the teacher in bfloat16


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to store scores, and the rule that makes a loss of them."""

    name: str
    support: TruncationParams
    union: Container[Source]  # texts stored with the student's likely tokens and G
    codec: str | None  # None: float32 and int32 as they are
    losses: Mapping[str, Loss]  # by divergence


def see(z_NV: Tensor, chunk: Chunk) -> StudentLogits:
    """What the pipeline's loss sees of these logits."""
    padding_NK = torch.isneginf(chunk.rows.logp_NK)
    others_NV = z_NV.scatter(-1, chunk.ids_NK, -torch.inf)
    return StudentLogits(
        stored_NK=z_NV.gather(-1, chunk.ids_NK).masked_fill(padding_NK, -torch.inf),
        others_N=others_NV.logsumexp(-1),
        drawn_NJ=z_NV.gather(-1, chunk.draw_ids_NJ),
        token_N=z_NV[:, 0],
        token_logp_N=z_NV[:, 0],
        others_entropy_N=torch.special.entr(others_NV.softmax(-1)).sum(-1),
    )


def pipelines(name: str, *, draws_scale: float | None = None) -> Loss:
    """The pipeline's own: stored tokens and "any other", or with tail draws."""
    tail = supports.bucket if draws_scale is None else partial(supports.tail_samples, scale=draws_scale)
    return lambda z_NV, chunk: tail(_DIVERGENCES[name], see(z_NV, chunk), chunk.rows)


def with_g(name: str) -> Loss:
    """With what is stored of the student's tail, fresh."""

    def loss(z_NV: Tensor, chunk: Chunk) -> Tensor:
        none_N = torch.zeros_like(chunk.rows.tail_N)
        rows = replace(chunk.rows, behaviour_logp_N=none_N)
        seen = replace(see(z_NV, chunk), token_logp_N=none_N)
        return supports.tail_mean(_DIVERGENCES[name], seen, rows, staleness=1.0)

    return loss


def rounded(name: str, texts: Population) -> Loss:
    """The dense divergence from the teacher in bfloat16: what its own rounding does."""

    def loss(z_NV: Tensor, chunk: Chunk) -> Tensor:
        logp_NV = texts.teacher_head(chunk.rounded_ND).log_softmax(-1)
        return _DIVERGENCES[name](logp_NV, z_NV.log_softmax(-1))

    return loss


def renormalised(name: str) -> Loss:
    """What is usual: the stored tokens alone, the teacher's made to add up to one."""

    def loss(z_NV: Tensor, chunk: Chunk) -> Tensor:
        logq_NK = z_NV.log_softmax(-1).gather(-1, chunk.ids_NK)
        logq_NK = logq_NK.masked_fill(torch.isneginf(chunk.rows.logp_NK), -torch.inf)
        return _DIVERGENCES[name](chunk.rows.logp_NK.log_softmax(-1), logq_NK)

    return loss


def ways(p: ScoringParams, draws_scale: float) -> list[Way]:
    """The default of params.yaml first, its draws mixed as there."""

    def way(
        name: str,
        losses: Mapping[str, Loss],
        *,
        union: Container[Source] = ("student",),
        codec: str | None = p.codec,
        **changes: Any,
    ) -> Way:
        kept = {field: getattr(p.truncation, field) for field in TruncationParams.__slots__}
        return Way(name=name, support=TruncationParams(**kept | changes), union=union, codec=codec, losses=losses)

    plain = {name: pipelines(name) for name in _DIVERGENCES}
    mixed = {"forward_kl": pipelines("forward_kl", draws_scale=draws_scale)}
    drawn = {"forward_kl": pipelines("forward_kl", draws_scale=0.0)}
    usual = {name: renormalised(name) for name in _DIVERGENCES}
    best = plain | mixed | {name: with_g(name) for name in ("reverse_kl", "jsd")}
    everywhere: tuple[Source, ...] = ("student", "dataset")
    nothing: dict[str, Any] = {"samples_per_tail": 0.0, "union": ()}
    top64: dict[str, Any] = nothing | {"threshold": 0.0, "max_entries": 64}
    draws50: dict[str, Any] = nothing | {"threshold": 1.0, "samples_per_tail": 50.0, "min_tail": 0.0, "codec": "rskd"}
    return [
        way("default", best),
        way("default, ground truth too", best, union=everywhere),
        way("no draws, no G", plain, union=everywhere, samples_per_tail=0.0),
        way("teacher's tokens only", plain, **nothing),
        way("teacher's tokens only, p > .01", plain, **nothing | {"threshold": 0.01}),
        way("p > .002", plain, threshold=0.002, samples_per_tail=0.0, union=everywhere),
        way("p > .01", plain, threshold=0.01, samples_per_tail=0.0, union=everywhere),
        way("top-64 fp32, bucket", plain, codec=None, **top64),
        way("top-64 fp32, renormalised", usual, codec=None, **top64),
        way("top-64 fp16, bucket", plain, codec="topk", **top64),
        way("RS-KD, 50 draws, top-1 and realised", drawn, **draws50),
        way("default, draws alone", drawn),
    ]


def stored(one: Way, texts: Population, ranks: NDArray[Any], scratch: Path) -> tuple[Scores, float]:
    """The population's scores after a round trip through a segment, and the payload's bytes a position."""
    sequences = list(_scored(one, texts))
    if one.codec is None:
        scores = join_scores([one.scores for one in sequences], 1)
        return scores, 8 * float(scores.head_n.mean())
    path = scratch / f"{texts.student} {one.name}"
    manifest = write_segment(path, sequences, nameless(one.codec, len(ranks)), ranks)
    chunks = [entry.size_bytes for name, entry in manifest.files.items() if "/c." in name]
    scores = join_scores(Segment.open(path).read(0, len(sequences)), 1)
    return scores, sum(chunks) / manifest.positions


@torch.inference_mode()
def _scored(one: Way, texts: Population) -> Iterator[ScoredSequence]:
    spans = torch.split(texts.teacher_ND, [len(rollout.completion_ids) for rollout in texts.rollouts])
    for rollout, hidden_TD in zip(texts.rollouts, spans, strict=True):
        bare = replace(rollout, support_ids=[], tail_sample_ids=[], tail_offset=[])
        known = rollout if rollout.source in one.union else bare
        seed = derive_seed(rollout.rollout_id)
        asked = ToScore(
            prompt_ids=[],
            completion_ids=rollout.completion_ids,
            support_ids=known.support_ids,
            tail_sample_ids=known.tail_sample_ids,
            tail_offset=known.tail_offset,
        )
        scores = truncate(texts.teacher_head(hidden_TD), asked, one.support, seed=seed)
        yield ScoredSequence(rollout=rollout, scores=scores)


def errors(losses: Mapping[str, Loss], texts: Population, batch: Batch) -> Row:
    """Relative errors of the gradient, at the logits and of the head's weights, by divergence."""
    row: Row = {}
    for name, loss in losses.items():
        batches = [range(one * _BATCH, (one + 1) * _BATCH, _CHUNK) for one in range(_BATCHES)]
        sums = sum(_of_batch(name, loss, texts, batch, starts) for starts in batches)
        logits, dense_logits, head, dense_head = np.sqrt(sums).tolist()
        row |= {f"{name}_{texts.student}": logits / dense_logits, f"{name}_head_{texts.student}": head / dense_head}
    return row


def _of_batch(name: str, loss: Loss, texts: Population, batch: Batch, starts: range) -> NDArray[np.float64]:
    """Squared norms: error and gradient at the logits, error and gradient of the head's weights."""
    squares = np.zeros(2)
    weights: list[Tensor | float] = [0.0, 0.0]
    for start in starts:
        places = slice(start, start + _CHUNK)
        dense_NV, found_NV = _gradients(name, loss, texts, batch, places)
        for side, gradient_NV in enumerate((found_NV - dense_NV, dense_NV)):
            squares[side] += gradient_NV.square().sum().item()
            weights[side] = weights[side] + gradient_NV.T @ texts.student_ND[places]
    return np.append(squares, [torch.as_tensor(one).square().sum().item() for one in weights])


def _gradients(name: str, loss: Loss, texts: Population, batch: Batch, places: slice) -> tuple[Tensor, Tensor]:
    """With respect to the student's logits [N, V]: of the dense divergence, and of the stored one."""
    ids_NK = batch.ids_NK[places].long()
    with torch.no_grad():
        logp_NV = texts.teacher_head(texts.teacher_ND[places]).log_softmax(-1)
        z_NV = texts.student_head(texts.student_ND[places])
    chunk = Chunk(
        ids_NK=ids_NK,
        draw_ids_NJ=batch.draw_ids_NJ[places].long(),
        rows=TeacherRows.of(batch, places),
        rounded_ND=texts.rounded_ND[places],
    )
    z_NV.requires_grad_()
    dense_N, found_N = _DIVERGENCES[name](logp_NV, z_NV.log_softmax(-1)), loss(z_NV, chunk)
    (dense_NV,), (found_NV,) = (torch.autograd.grad(one.sum(), z_NV) for one in (dense_N, found_N))
    return dense_NV, found_NV


@click.command(help=__doc__)
@click.option("--json", "out", type=Path, help="Write the rows here as well.")
@click.option("--prompts", default=40, show_default=True, help="Prompts of each student's texts.")
def main(out: Path | None, prompts: int) -> None:
    p = section(PARAMS, ScoringParams, "scoring")
    texts = load_prompts(TEACHER, Path(os.environ.get("STILLROOM_DATA", "../shared/data")), prompts)
    ranks = rank_tokens(texts, shared_vocab(load_tokenizer(TEACHER)))
    rows: dict[str, Row] = {}
    with tempfile.TemporaryDirectory() as folder:
        for population in populations(TEACHER, texts, Path(folder)):
            for name, found in measure(p, population, ranks, Path(folder)):
                rows[name] = rows.get(name, {"name": name}) | found
                click.echo(f"{population.student}: {name}: {found}", err=True)
    for one in rows.values():
        if "bytes_near" in one:
            one["bytes_per_position"] = (one["bytes_near"] + one["bytes_far"]) / 2
    found_rows = list(rows.values())
    show(_table(found_rows), found_rows, out)


def measure(p: ScoringParams, texts: Population, ranks: NDArray[Any], scratch: Path) -> Iterator[tuple[str, Row]]:
    """Rows of one population: how far the student is from its teacher, and each way."""
    if len(texts.teacher_ND) < _BATCH * _BATCHES:
        raise click.UsageError(
            f"--prompts: {len(texts.teacher_ND)} positions, {_BATCH * _BATCHES} are needed; raise it"
        )
    yield "forward KL, nats", {f"nats_{texts.student}": _distance(texts)}
    own = [replace(one, source="student") for one in texts.rollouts]  # G counts at a round's own texts alone
    for one in ways(p, lookup(PARAMS, "objective", "tail_samples_scale")):
        scores, size = stored(one, texts, ranks, scratch)
        batch = to_torch(collate_scores(own, scores, temperature=1.0, column=0), torch.device("cpu"))
        yield one.name, {f"bytes_{texts.student}": size} | errors(one.losses, texts, batch)
    yield "teacher in bf16, dense", errors({name: rounded(name, texts) for name in _DIVERGENCES}, texts, batch)


@torch.inference_mode()
def _distance(texts: Population) -> float:
    """Mean dense forward KL over all positions."""
    total = 0.0
    for p_ND, q_ND in zip(torch.split(texts.teacher_ND, _CHUNK), torch.split(texts.student_ND, _CHUNK), strict=True):
        logp_NV, logq_NV = texts.teacher_head(p_ND).log_softmax(-1), texts.student_head(q_ND).log_softmax(-1)
        total += _DIVERGENCES["forward_kl"](logp_NV, logq_NV).sum().item()
    return total / len(texts.teacher_ND)


def _table(rows: Sequence[Row]) -> list[list[str]]:
    columns = [key for key in dict.fromkeys(itertools.chain.from_iterable(rows)) if key != "name"]
    cells = [[f"{row[key]:.3g}" if key in row else "" for key in columns] for row in rows]
    return [["way", *columns], *([row["name"], *line] for row, line in zip(rows, cells, strict=True))]


if __name__ == "__main__":
    main()
