"""Students that start far from their teacher, trained on what is stored of it: seeds x divergences x supports.

    python -m bench.store.far_student --seeds 3 --json FILE    # hours: about a minute a run and processor
    python -m bench.store.far_student --divergence jsd --support "union, G" --support "dense, live" --json FILE

The student of `bench.store.populations` that writes garbage (thirteen evenly spread layers) learns on its own rollouts
for GSM8K, sampled anew every `--refresh` steps, and is then measured densely on held-out rollouts of its own. Sampler,
truncation, codec, collation and loss are the pipeline's. "dense" sees the teacher's whole distribution on the same
rollouts, which is what a live teacher would say. The last three are rules that others use and this pipeline does not
offer. Every run of a seed begins with the same rollouts, scored once. The file has each run as soon as it is over; the
same command goes on from there. Needs a run of the default job (its teacher) and GSM8K under STILLROOM_DATA.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

from bench.output import Row, show, write_json
from bench.store.populations import load_prompts, make_student
from pipeline.core.sampling import Sampling
from pipeline.core.types import Prompt, Rollout
from pipeline.losses.batch import Batch
from pipeline.losses.divergences import DIVERGENCES, Divergence, DivergenceParams
from pipeline.losses.objective import ObjectiveParams, batch_loss
from pipeline.models import language_model as lm
from pipeline.models.head import Head
from pipeline.models.tokenizer import Tokenizer, decode, eos_ids, load_tokenizer, shared_vocab
from pipeline.rollout.collect import collect_rollouts, plan_batches
from pipeline.rollout.hf_sampler import HFSampler
from pipeline.runtime.config import section
from pipeline.runtime.layout import LAYOUT
from pipeline.scoring.hf_scorer import draw_seed
from pipeline.scoring.score import ScoringParams
from pipeline.scoring.scorer import ToScore, TruncationParams
from pipeline.scoring.truncate import truncate
from pipeline.store.codecs import CODECS
from pipeline.store.ragged import join_scores
from pipeline.tasks.templates import TemplateParams
from pipeline.training.collate import collate_scores
from pipeline.training.loop import to_torch

Rule = Callable[[Divergence, Tensor, Tensor, Batch], Tensor]  # student's logits [N, V], teacher's log-probs -> nats [N]

_OBJECTIVES = {
    name: ObjectiveParams(
        divergence=DivergenceParams(name=name, beta=0.5, skew=0.0, normalise=False),
        temperature=1.0,
        tail_estimator="bucket",
        tail_samples_scale=3.0,
        tail_mean_staleness=5.0,
        cross_entropy=0.0,
        alpha=1.0,
        clip_epsilon=0.2,
        chunk_tokens=512,
    )
    for name in ("forward_kl", "reverse_kl", "jsd")
}
_MEASURED = {name: DIVERGENCES[name](one.divergence) for name, one in _OBJECTIVES.items()}
_BEFORE = {"name": "before", "divergence": "", "support": ""}
_QUESTION = TemplateParams(text="{question}", chat=False, system=None)  # short: most of the time goes into prompts
_POSITIONS = 128  # whose dense distributions exist at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """What is stored, and the rule that makes a loss of it."""

    name: str
    divergences: Sequence[str]
    support: str  # objective.tail_estimator, or a name in RULES
    union: bool
    kept: TruncationParams


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """Rollouts for some steps, and the teacher's hidden states [T, D] of each."""

    rollouts: list[Rollout]
    teacher: list[Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What all runs have in common."""

    teacher: lm.Model
    tokenizer: Tokenizer  # the students' as well
    train: list[Prompt]
    heldout: list[Prompt]
    scratch: Path
    codec: str
    steps: int
    refresh: int
    batch: int
    samples: int
    tokens: int
    learning_rate: float


def _stored(logits_NV: Tensor, batch: Batch) -> Tensor:
    """log q of the stored tokens."""
    padding_NK = torch.isneginf(batch.logp_NK)
    return logits_NV.log_softmax(-1).gather(-1, batch.ids_NK.long()).masked_fill(padding_NK, -torch.inf)


RULES: dict[str, Rule] = {
    "dense": lambda divergence, logits, logp, _: divergence(logp, logits.log_softmax(-1)),
    "renormalise": lambda divergence, logits, _, batch: divergence(
        batch.logp_NK.log_softmax(-1), _stored(logits, batch)
    ),
    "conditional": lambda divergence, logits, _, batch: divergence(
        batch.logp_NK.log_softmax(-1), _stored(logits, batch).log_softmax(-1)
    ),
    "truncate": lambda divergence, logits, _, batch: divergence(batch.logp_NK, _stored(logits, batch)),
}


def ways(kept: TruncationParams) -> list[Way]:
    """`kept` is that of params.yaml."""
    every = tuple(_OBJECTIVES)
    plain = replace(kept, samples_per_tail=0.0)
    larger = replace(plain, threshold=0.0, max_entries=256)

    def way(name: str, support: str, kept: TruncationParams = plain, *, union: bool = False, of: Any = every) -> Way:
        return Way(name=name, divergences=of, support=support, union=union, kept=kept)

    return [
        way("dense, live", "dense"),
        way("bucket", "bucket"),
        way("larger bucket, top-256", "bucket", larger),
        way("union, bucket", "bucket", union=True),
        way("tail draws", "tail_samples", kept, of=("forward_kl",)),
        way("union, tail draws", "tail_samples", kept, union=True, of=("forward_kl",)),
        way("union, G", "tail_mean", union=True, of=("reverse_kl", "jsd")),
        way("union, residual", "residual", union=True),
        way("sampled (k1)", "sampled", of=("reverse_kl",)),
        way("renormalise", "renormalise"),
        way("conditional", "conditional"),
        way("truncate", "truncate", of=("reverse_kl",)),
    ]


def write(setting: Setting, student: Path, prompts: Sequence[Prompt], *, name: str, seed: int, union: bool) -> Texts:
    """Rollouts of the student in this directory, completions of a prompt side by side, and the teacher's states.

    `union`: the sampler says which tokens the student finds likely, and draws from the others.
    """
    vocab, ends = shared_vocab(setting.tokenizer), eos_ids(setting.tokenizer)
    sampler = HFSampler(student, precision="auto", vocab=vocab, eos_ids=ends, seed=seed)
    sampling = Sampling(
        max_new_tokens=setting.tokens,
        temperature=1.0,
        top_p=1.0,
        record_threshold=0.005,
        record_max=64 if union else 0,
        record_tail_samples=16 if union else 0,
    )
    rollouts: list[Rollout] = []
    for batch in plan_batches(prompts, setting.samples, 64, name=name):
        rollouts += collect_rollouts(
            batch, sampler, sampling, lambda ids: decode(setting.tokenizer, ids), source="student"
        )
    states: list[Tensor] = []
    with torch.no_grad():
        for some in cut(rollouts, setting.batch):
            states += torch.split(hidden(setting.teacher, some), [len(one.completion_ids) for one in some])
    return Texts(rollouts=rollouts, teacher=states)


def cut(rollouts: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """Stretches of a size."""
    return [rollouts[start : start + size] for start in range(0, len(rollouts), size)]


def hidden(model: lm.Model, rollouts: Sequence[Rollout]) -> Tensor:
    """Hidden states [N, D] of all completion positions."""
    with lm.autocast(lm.resolve_dtype("auto")):
        states_ND: Tensor = lm.completion_hidden(
            model, [one.prompt_ids for one in rollouts], [one.completion_ids for one in rollouts]
        )
    return states_ND.float()


@torch.no_grad()
def stored(way: Way, rollouts: Sequence[Rollout], states: Sequence[Tensor], head: Head, codec: str) -> Batch:
    """What a reader of the store would put into a batch."""
    parts = []
    for one, teacher_TD in zip(rollouts, states, strict=True):
        known = one if way.union else replace(one, support_ids=[], tail_sample_ids=[], tail_offset=[])
        asked = ToScore(
            prompt_ids=one.prompt_ids,
            completion_ids=one.completion_ids,
            support_ids=known.support_ids,
            tail_sample_ids=known.tail_sample_ids,
            tail_offset=known.tail_offset,
        )
        parts.append(truncate(head(teacher_TD), asked, way.kept, seed=draw_seed(asked)))
    ranks = np.arange(len(head.weight_VD))
    scores = CODECS[codec].decode(CODECS[codec].encode(join_scores(parts, 1), ranks), ranks)
    return to_torch(collate_scores(rollouts, scores, temperature=1.0, column=0), torch.device("cpu"))


def step_loss(
    way: Way, name: str, heads: tuple[Head, Head], hidden_ND: Tensor, teacher_ND: Tensor, batch: Batch
) -> Tensor:
    """Sum over positions."""
    teacher_head, head = heads
    if way.support not in RULES:
        p = replace(_OBJECTIVES[name], tail_estimator=way.support)  # type: ignore[arg-type]
        return batch_loss(p, head, hidden_ND, batch, behaviour_temperature=1.0)[0]
    logp_NV = teacher_head(teacher_ND).log_softmax(-1)
    return RULES[way.support](_MEASURED[name], head(hidden_ND), logp_NV, batch).sum()


def run(setting: Setting, way: Way, name: str, start: Path, first: Texts, *, seed: int) -> Path:
    """The directory of the trained student."""
    model = lm.load_model(start, to_train=True)
    vocab = shared_vocab(setting.tokenizer)
    heads = lm.head_of(setting.teacher, vocab), lm.head_of(model, vocab)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=setting.learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True
    )
    out, texts, spent = setting.scratch / "trained", first, 0
    for step in range(setting.steps):
        if step and step % setting.refresh == 0:
            model.save_pretrained(out)
            texts, spent = write_round(setting, out, step // setting.refresh, seed=seed, union=way.union), 0
        places = slice(spent, spent + setting.batch)
        spent += setting.batch
        rollouts, states = texts.rollouts[places], texts.teacher[places]
        batch = stored(way, rollouts, states, heads[0], setting.codec)
        model.train()
        loss = step_loss(way, name, heads, hidden(model, rollouts), torch.cat(list(states)), batch)
        (loss / len(batch.token_ids_N)).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    model.save_pretrained(out)
    return out


def write_round(setting: Setting, student: Path, number: int, *, seed: int, union: bool) -> Texts:
    """As many rollouts as the steps up to the next refresh take, in a shuffled order of prompts."""
    wanted = setting.refresh * setting.batch // setting.samples
    order = np.random.default_rng((seed, number)).permutation(len(setting.train))
    prompts = [setting.train[one] for one in order[:wanted]]
    texts = write(setting, student, prompts, name=f"round{number}", seed=seed, union=union)
    shuffled = np.random.default_rng((seed, number, 1)).permutation(len(cut(texts.rollouts, setting.samples)))
    groups = [range(int(one) * setting.samples, (int(one) + 1) * setting.samples) for one in shuffled]
    rows = [row for group in groups for row in group]
    return Texts(rollouts=[texts.rollouts[row] for row in rows], teacher=[texts.teacher[row] for row in rows])


@torch.no_grad()
def measure(setting: Setting, student: Path, *, seed: int) -> Row:
    """Dense divergences, nats a token, on held-out rollouts of its own."""
    texts = write(setting, student, setting.heldout, name="heldout", seed=seed, union=False)
    model = lm.load_model(student)
    vocab = shared_vocab(setting.tokenizer)
    teacher_head, head = lm.head_of(setting.teacher, vocab), lm.head_of(model, vocab)
    sums, positions = dict.fromkeys(_MEASURED, 0.0), 0
    for rollouts, states in zip(cut(texts.rollouts, setting.batch), cut(texts.teacher, setting.batch), strict=True):
        p_ND, q_ND = torch.cat(list(states)), hidden(model, rollouts)
        positions += len(p_ND)
        for some_p, some_q in zip(torch.split(p_ND, _POSITIONS), torch.split(q_ND, _POSITIONS), strict=True):
            logp_NV, logq_NV = teacher_head(some_p).log_softmax(-1), head(some_q).log_softmax(-1)
            for name, divergence in _MEASURED.items():
                sums[name] += divergence(logp_NV, logq_NV).sum().item()
    return {name: value / positions for name, value in sums.items()}


def runs(setting: Setting, chosen: Sequence[Way], names: Sequence[str], seeds: int, done: set[Any]) -> Iterator[Row]:
    """One row a seed, divergence and way, but for those done; the first of each seed is the student before training."""
    start = setting.scratch / "start"
    make_student("pruned", LAYOUT.teacher, start)
    planned = [(name, way) for name in names for way in chosen if name in way.divergences]
    for seed in range(seeds):
        first: Texts | None = None
        for name, way in [("", None), *planned]:
            row: Row = (
                {"name": f"{name}: {way.name}", "divergence": name, "support": way.name} if way else dict(_BEFORE)
            )
            if (seed, row["name"]) in done:
                continue
            began = time.monotonic()
            first = first or write_round(setting, start, 0, seed=seed, union=True)
            trained = run(setting, way, name, start, first, seed=seed) if way else start
            yield row | {"seed": seed} | measure(setting, trained, seed=seed) | {"seconds": time.monotonic() - began}


def averaged(rows: Sequence[Row]) -> list[Row]:
    """One row a name: means over seeds, and the range of the divergence that was minimised."""
    found = []
    for name in dict.fromkeys(row["name"] for row in rows):
        same = [row for row in rows if row["name"] == name]
        row: Row = {key: same[0][key] for key in ("name", "divergence", "support")} | {"seeds": len(same)}
        row |= {one: mean(each[one] for each in same) for one in _MEASURED}
        own = [each[row["divergence"] or "forward_kl"] for each in same]
        found.append(row | {"range": max(own) - min(own)})
    return found


@click.command(help=__doc__)
@click.option("--json", "out", type=Path, help="Write the rows here as well.")
@click.option("--seeds", default=1, show_default=True)
@click.option("--steps", default=10, show_default=True, help="Optimizer steps of a run.")
@click.option("--refresh", default=5, show_default=True, help="Steps between fresh rollouts.")
@click.option("--batch", default=8, show_default=True, help="Rollouts of a step, a multiple of --samples.")
@click.option("--samples", default=8, show_default=True, help="Rollouts of a prompt.")
@click.option("--tokens", default=12, show_default=True, help="Of a rollout, at most.")
@click.option("--heldout", default=4, show_default=True, help="Prompts on which a student is measured.")
@click.option("--prompt-tokens", default=40, show_default=True, help="Of a prompt, at most.")
@click.option("--learning-rate", default=3e-4, show_default=True)
@click.option("--divergence", "names", multiple=True, type=click.Choice(list(_OBJECTIVES)), help="These alone.")
@click.option("--support", "chosen", multiple=True, help="These alone, by their names in the table.")
def main(
    out: Path | None,
    seeds: int,
    heldout: int,
    prompt_tokens: int,
    names: tuple[str, ...],
    chosen: tuple[str, ...],
    **sizes: Any,
) -> None:
    if sizes["batch"] % sizes["samples"]:
        raise click.UsageError(f"--batch: expected a multiple of --samples {sizes['samples']}, got {sizes['batch']}")
    p = section(LAYOUT.params, ScoringParams, "scoring")
    needed = sizes["refresh"] * sizes["batch"] // sizes["samples"]
    data = Path(os.environ.get("STILLROOM_DATA", "../shared/data"))
    prompts = load_prompts(LAYOUT.teacher, data, 4 * needed + heldout, longest=prompt_tokens, template=_QUESTION)
    possible = [one for one in ways(p.truncation) if not chosen or one.name in chosen]
    about: Row = sizes | {"heldout": heldout, "prompt_tokens": prompt_tokens}
    found = earlier(out, about)
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(
            teacher=lm.load_model(LAYOUT.teacher),
            tokenizer=load_tokenizer(LAYOUT.teacher),
            train=prompts[heldout:],
            heldout=prompts[:heldout],
            scratch=Path(folder),
            codec=p.codec,
            **sizes,
        )
        done = {(row["seed"], row["name"]) for row in found}
        for row in runs(setting, possible, names or tuple(_OBJECTIVES), seeds, done):
            found.append(row)
            click.echo(f"seed {row['seed']}, {row['name']}: {numbers(row)}; {row['seconds']:.0f} s", err=True)
            if out is not None:
                write_json(out, averaged(found), about=about, runs=found)
    rows = averaged(found)
    table = [["run", *_MEASURED, "range over seeds"]]
    table += [[one["name"], *(f"{one[key]:.3f}" for key in (*_MEASURED, "range"))] for one in rows]
    show(table, rows, out, about=about, runs=found)


def earlier(out: Path | None, about: Row) -> list[Row]:
    """The runs that the file already has; of another size they are an error."""
    if out is None or not out.exists():
        return []
    there = json.loads(out.read_text())
    if there["about"] != about:
        raise click.UsageError(f"--json: {out} is of a run with {there['about']}, and not {about}; name another file")
    runs: list[Row] = there["runs"]
    return runs


def numbers(row: Row) -> str:
    """The measured divergences of a run."""
    return ", ".join(f"{name} {row[name]:.3f}" for name in _MEASURED)


if __name__ == "__main__":
    main()
