"""Train students that start far from their teacher on stored scores: seeds x divergences x configurations of the store.

    python -m bench.store.far_student --seeds 3 --json FILE    # hours: about a minute per run and processor
    python -m bench.store.far_student --divergence jsd --configuration "student support, tail mean" \
        --configuration "dense, live" --json FILE

The pruned student of `bench.store.populations` learns on its own rollouts for GSM8K, which it samples anew every
`--refresh` steps. It is then measured densely on its own completions of held-out prompts. Sampler, truncation, codec,
collation and loss are the pipeline's. The configuration "dense, live" has the teacher's whole distribution on the same
rollouts, as a live teacher would give it. The last three configurations are rules of other projects, which this
pipeline does not offer.

- Every run of a seed starts with the same rollouts, scored once.
- The file has each run as soon as it ends; the same command continues from there.
- The benchmark needs a run of the default job (its teacher) and GSM8K under STILLROOM_DATA.
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

from bench.collation import collate_scores
from bench.objectives import divergence_alone
from bench.output import Row, show, write_json
from bench.store.populations import load_prompts, make_student
from pipeline.core.sampling import Sampling
from pipeline.core.types import Prompt, Rollout, TokenSequence
from pipeline.losses.batch import TeacherRows
from pipeline.losses.divergences import DIVERGENCES, Divergence
from pipeline.losses.objective import batch_loss
from pipeline.models import language_model as lm
from pipeline.models.head import Head
from pipeline.models.tokenizer import Tokenizer, decode, eos_ids, load_tokenizer, shared_vocab
from pipeline.rollout.collect import collect_rollouts, plan_batches
from pipeline.rollout.hf_sampler import HFSampler
from pipeline.runtime.config import section
from pipeline.runtime.layout import LAYOUT
from pipeline.scoring.hf_scorer import tail_sample_seed
from pipeline.scoring.score import ScoringParams
from pipeline.scoring.scorer import TruncationParams
from pipeline.scoring.truncate import truncate
from pipeline.store.codecs import CODECS
from pipeline.store.ragged import join_scores
from pipeline.tasks.templates import TemplateParams

# From the divergence, the student's logits [N, V], the teacher's log-probs [N, V] and the stored rows to nats [N].
Rule = Callable[[Divergence, Tensor, Tensor, TeacherRows], Tensor]

_OBJECTIVES = {name: divergence_alone(name, tail_estimator="bucket") for name in ("forward_kl", "reverse_kl", "jsd")}
_MEASURED = {name: DIVERGENCES[name](objective.divergence) for name, objective in _OBJECTIVES.items()}
_BEFORE = {"name": "before", "divergence": "", "configuration": ""}
_QUESTION = TemplateParams(text="{question}", chat=False, system=None)  # short, because prompts take most of the time
_POSITIONS = 128  # positions whose dense distributions exist at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What is stored of scores, and the tail estimator or rule that computes the loss from it."""

    name: str
    divergences: Sequence[str]
    estimator: str
    """A value of `objective.tail_estimator`, or a name in RULES."""

    student_support: bool
    """Whether student-support tokens and tail samples of the sampler are stored."""

    truncation: TruncationParams


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """The rollouts of several steps, and the teacher's hidden states [T, D] of each."""

    rollouts: list[Rollout]
    teacher: list[Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The models, prompts and sizes that all runs have in common."""

    teacher: lm.Model
    tokenizer: Tokenizer
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


def _stored_logq(logits_NV: Tensor, batch: TeacherRows) -> Tensor:
    """Return the student's log-probs [N, K] of the stored tokens."""
    padding_NK = torch.isneginf(batch.logp_NK)
    return logits_NV.log_softmax(-1).gather(-1, batch.ids_NK.long()).masked_fill(padding_NK, -torch.inf)


RULES: dict[str, Rule] = {
    "dense": lambda divergence, logits, logp, _: divergence(logp, logits.log_softmax(-1)),
    "renormalise": lambda divergence, logits, _, batch: divergence(
        batch.logp_NK.log_softmax(-1), _stored_logq(logits, batch)
    ),
    "conditional": lambda divergence, logits, _, batch: divergence(
        batch.logp_NK.log_softmax(-1), _stored_logq(logits, batch).log_softmax(-1)
    ),
    "truncate": lambda divergence, logits, _, batch: divergence(batch.logp_NK, _stored_logq(logits, batch)),
}


def configurations(truncation: TruncationParams) -> list[Configuration]:
    """Return the configurations, some of them with the truncation of params.yaml."""
    no_samples = replace(truncation, samples_per_tail=0.0)
    larger = replace(no_samples, threshold=0.0, max_entries=256)

    def configuration(
        name: str,
        estimator: str,
        truncation: TruncationParams = no_samples,
        *,
        supported: bool = False,
        of: Sequence[str] = tuple(_OBJECTIVES),
    ) -> Configuration:
        return Configuration(
            name=name, divergences=of, estimator=estimator, student_support=supported, truncation=truncation
        )

    return [
        configuration("dense, live", "dense"),
        configuration("bucket", "bucket"),
        configuration("larger bucket, top-256", "bucket", larger),
        configuration("student support, bucket", "bucket", supported=True),
        configuration("tail samples", "tail_samples", truncation, of=("forward_kl",)),
        configuration("student support, tail samples", "tail_samples", truncation, supported=True, of=("forward_kl",)),
        configuration("student support, tail mean", "tail_mean", supported=True, of=("reverse_kl", "jsd")),
        configuration("student support, residual", "residual", supported=True),
        configuration("sampled (k1)", "sampled", of=("reverse_kl",)),
        configuration("renormalise", "renormalise"),
        configuration("conditional", "conditional"),
        configuration("truncate", "truncate", of=("reverse_kl",)),
    ]


def write_texts(
    setting: Setting, student: Path, prompts: Sequence[Prompt], *, name: str, seed: int, student_support: bool
) -> Texts:
    """Return rollouts of a student, with the completions of a prompt next to each other, and the teacher's states.

    With `student_support`, the sampler records the tokens that the student finds likely, and samples of its tail.
    """
    vocab, ends = shared_vocab(setting.tokenizer), eos_ids(setting.tokenizer)
    sampler = HFSampler(student, precision="auto", vocab=vocab, eos_ids=ends, seed=seed)
    sampling = Sampling(
        max_new_tokens=setting.tokens,
        temperature=1.0,
        top_p=1.0,
        record_threshold=0.005,
        record_max=64 if student_support else 0,
        record_tail_samples=16 if student_support else 0,
    )
    rollouts: list[Rollout] = []
    for batch in plan_batches(prompts, setting.samples, 64, name=name):
        rollouts += collect_rollouts(
            batch, sampler, sampling, lambda ids: decode(setting.tokenizer, ids), source="student"
        )
    states: list[Tensor] = []
    with torch.no_grad():
        for part in split(rollouts, setting.batch):
            lengths = [len(rollout.completion_ids) for rollout in part]
            states += torch.split(hidden(setting.teacher, part), lengths)
    return Texts(rollouts=rollouts, teacher=states)


def split(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """Return consecutive parts of this size."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def hidden(model: lm.Model, rollouts: Sequence[Rollout]) -> Tensor:
    """Return the hidden states [N, D] of all completion positions."""
    with lm.autocast(lm.resolve_dtype("auto")):
        states_ND: Tensor = lm.completion_hidden(
            model, [rollout.prompt_ids for rollout in rollouts], [rollout.completion_ids for rollout in rollouts]
        )
    return states_ND.float()


@torch.no_grad()
def stored(
    configuration: Configuration, rollouts: Sequence[Rollout], states: Sequence[Tensor], head: Head, codec: str
) -> TeacherRows:
    """Return the rows of a batch as a reader of the store has them after truncation and codec."""
    parts = []
    for rollout, teacher_TD in zip(rollouts, states, strict=True):
        bare = replace(rollout, support_ids=[], tail_sample_ids=[], tail_offset=[])
        recorded = rollout if configuration.student_support else bare
        to_score = TokenSequence(
            prompt_ids=rollout.prompt_ids,
            completion_ids=rollout.completion_ids,
            support_ids=recorded.support_ids,
            tail_sample_ids=recorded.tail_sample_ids,
            tail_offset=recorded.tail_offset,
        )
        parts.append(truncate(head(teacher_TD), to_score, configuration.truncation, seed=tail_sample_seed(to_score)))
    ranks = np.arange(len(head.weight_VD))
    scores = CODECS[codec].decode(CODECS[codec].encode(join_scores(parts, 1), ranks), ranks)
    return collate_scores(rollouts, scores, temperature=1.0, column=0).rows.to(torch.device("cpu"))


def step_loss(
    configuration: Configuration,
    name: str,
    heads: tuple[Head, Head],
    hidden_ND: Tensor,
    teacher_ND: Tensor,
    batch: TeacherRows,
) -> Tensor:
    """Return the sum over positions of the divergence `name`, in nats."""
    teacher_head, head = heads
    if configuration.estimator not in RULES:
        p = replace(_OBJECTIVES[name], tail_estimator=configuration.estimator)  # type: ignore[arg-type]
        return batch_loss(p, head, hidden_ND, batch, behaviour_temperature=1.0)[0]
    logp_NV = teacher_head(teacher_ND).log_softmax(-1)
    return RULES[configuration.estimator](_MEASURED[name], head(hidden_ND), logp_NV, batch).sum()


def run(setting: Setting, configuration: Configuration, name: str, start: Path, first: Texts, *, seed: int) -> Path:
    """Train with the divergence `name`, and return the directory of the trained student."""
    model = lm.load_model(start, to_train=True)
    vocab = shared_vocab(setting.tokenizer)
    heads = lm.head_of(setting.teacher, vocab), lm.head_of(model, vocab)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=setting.learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True
    )
    out, texts, used = setting.scratch / "trained", first, 0
    for step in range(setting.steps):
        if step and step % setting.refresh == 0:
            model.save_pretrained(out)
            texts, used = (
                write_round(
                    setting, out, step // setting.refresh, seed=seed, student_support=configuration.student_support
                ),
                0,
            )
        rows = slice(used, used + setting.batch)
        used += setting.batch
        rollouts, states = texts.rollouts[rows], texts.teacher[rows]
        batch = stored(configuration, rollouts, states, heads[0], setting.codec)
        model.train()
        loss = step_loss(configuration, name, heads, hidden(model, rollouts), torch.cat(list(states)), batch)
        (loss / len(batch.token_ids_N)).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    model.save_pretrained(out)
    return out


def write_round(setting: Setting, student: Path, number: int, *, seed: int, student_support: bool) -> Texts:
    """Return the rollouts of the steps up to the next refresh, in a shuffled order of prompts."""
    count = setting.refresh * setting.batch // setting.samples
    order = np.random.default_rng((seed, number)).permutation(len(setting.train))
    prompts = [setting.train[index] for index in order[:count]]
    texts = write_texts(setting, student, prompts, name=f"round{number}", seed=seed, student_support=student_support)
    shuffled = np.random.default_rng((seed, number, 1)).permutation(len(split(texts.rollouts, setting.samples)))
    groups = [range(int(group) * setting.samples, (int(group) + 1) * setting.samples) for group in shuffled]
    rows = [row for group in groups for row in group]
    return Texts(rollouts=[texts.rollouts[row] for row in rows], teacher=[texts.teacher[row] for row in rows])


@torch.no_grad()
def measure(setting: Setting, student: Path, *, seed: int) -> Row:
    """Return the dense divergences on the student's own completions of held-out prompts, in nats per token."""
    texts = write_texts(setting, student, setting.heldout, name="heldout", seed=seed, student_support=False)
    model = lm.load_model(student)
    vocab = shared_vocab(setting.tokenizer)
    teacher_head, head = lm.head_of(setting.teacher, vocab), lm.head_of(model, vocab)
    sums, positions = dict.fromkeys(_MEASURED, 0.0), 0
    for rollouts, states in zip(split(texts.rollouts, setting.batch), split(texts.teacher, setting.batch), strict=True):
        p_ND, q_ND = torch.cat(list(states)), hidden(model, rollouts)
        positions += len(p_ND)
        for teacher_ND, student_ND in zip(torch.split(p_ND, _POSITIONS), torch.split(q_ND, _POSITIONS), strict=True):
            logp_NV, logq_NV = teacher_head(teacher_ND).log_softmax(-1), head(student_ND).log_softmax(-1)
            for name, divergence in _MEASURED.items():
                sums[name] += divergence(logp_NV, logq_NV).sum().item()
    return {name: value / positions for name, value in sums.items()}


def runs(
    setting: Setting, chosen: Sequence[Configuration], names: Sequence[str], seeds: int, done: set[Any]
) -> Iterator[Row]:
    """Yield one row per seed, divergence and configuration that is not done yet; first, the student before training."""
    start = setting.scratch / "start"
    make_student("pruned", LAYOUT.teacher, start)
    planned = [(name, configuration) for name in names for configuration in chosen if name in configuration.divergences]
    for seed in range(seeds):
        first: Texts | None = None
        for name, configuration in [("", None), *planned]:
            row: Row = dict(_BEFORE)
            if configuration is not None:
                title = f"{name}: {configuration.name}"
                row = {"name": title, "divergence": name, "configuration": configuration.name}
            if (seed, row["name"]) in done:
                continue
            began = time.monotonic()
            first = first or write_round(setting, start, 0, seed=seed, student_support=True)
            trained = run(setting, configuration, name, start, first, seed=seed) if configuration else start
            yield row | {"seed": seed} | measure(setting, trained, seed=seed) | {"seconds": time.monotonic() - began}


def averaged(rows: Sequence[Row]) -> list[Row]:
    """Return one row per name: means over seeds, and the range of the divergence that was minimised."""
    means = []
    for name in dict.fromkeys(row["name"] for row in rows):
        same = [row for row in rows if row["name"] == name]
        row: Row = {key: same[0][key] for key in ("name", "divergence", "configuration")} | {"seeds": len(same)}
        row |= {key: mean(run[key] for run in same) for key in _MEASURED}
        own = [run[row["divergence"] or "forward_kl"] for run in same]
        means.append(row | {"range": max(own) - min(own)})
    return means


@click.command(help=__doc__)
@click.option("--json", "out", type=Path, help="Write the rows here as well.")
@click.option("--seeds", default=1, show_default=True)
@click.option("--steps", default=10, show_default=True, help="Optimizer steps of a run.")
@click.option("--refresh", default=5, show_default=True, help="Steps between new rollouts.")
@click.option("--batch", default=8, show_default=True, help="Rollouts of a step, a multiple of --samples.")
@click.option("--samples", default=8, show_default=True, help="Rollouts per prompt.")
@click.option("--tokens", default=12, show_default=True, help="Largest number of tokens of a rollout.")
@click.option("--heldout", default=4, show_default=True, help="Held-out prompts on which a student is measured.")
@click.option("--prompt-tokens", default=40, show_default=True, help="Largest number of tokens of a prompt.")
@click.option("--learning-rate", default=3e-4, show_default=True)
@click.option(
    "--divergence", "names", multiple=True, type=click.Choice(list(_OBJECTIVES)), help="These divergences alone."
)
@click.option(
    "--configuration", "chosen", multiple=True, help="These configurations alone, by their names in the table."
)
def main(
    out: Path | None,
    seeds: int,
    heldout: int,
    prompt_tokens: int,
    names: tuple[str, ...],
    chosen: tuple[str, ...],
    **sizes: Any,
) -> None:
    """Run the benchmark and print its table."""
    if sizes["batch"] % sizes["samples"]:
        raise click.UsageError(f"--batch: expected a multiple of --samples {sizes['samples']}, got {sizes['batch']}")
    p = section(LAYOUT.params, ScoringParams, "scoring")
    needed = sizes["refresh"] * sizes["batch"] // sizes["samples"]
    data = Path(os.environ.get("STILLROOM_DATA", "../shared/data"))
    prompts = load_prompts(LAYOUT.teacher, data, 4 * needed + heldout, longest=prompt_tokens, template=_QUESTION)
    possible = [entry for entry in configurations(p.truncation) if not chosen or entry.name in chosen]
    about: Row = sizes | {"heldout": heldout, "prompt_tokens": prompt_tokens}
    results = earlier(out, about)
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
        done = {(row["seed"], row["name"]) for row in results}
        for row in runs(setting, possible, names or tuple(_OBJECTIVES), seeds, done):
            results.append(row)
            click.echo(f"seed {row['seed']}, {row['name']}: {numbers(row)}; {row['seconds']:.0f} s", err=True)
            if out is not None:
                write_json(out, averaged(results), about=about, runs=results)
    rows = averaged(results)
    table = [["run", *_MEASURED, "range over seeds"]]
    table += [[row["name"], *(f"{row[key]:.3f}" for key in (*_MEASURED, "range"))] for row in rows]
    show(table, rows, out, about=about, runs=results)


def earlier(out: Path | None, about: Row) -> list[Row]:
    """Return the runs that the file already has.

    Raises:
        click.UsageError: If the file has runs of another size.
    """
    if out is None or not out.exists():
        return []
    contents = json.loads(out.read_text(encoding="utf-8"))
    if contents["about"] != about:
        raise click.UsageError(
            f"--json: {out} is of a run with {contents['about']}, and not {about}; name another file"
        )
    runs: list[Row] = contents["runs"]
    return runs


def numbers(row: Row) -> str:
    """Return the measured divergences of a run as text."""
    return ", ".join(f"{name} {row[name]:.3f}" for name in _MEASURED)


if __name__ == "__main__":
    main()
