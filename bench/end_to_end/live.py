"""The loop that this pipeline replaces: teacher and student in memory, and the teacher runs in every step.

The loop takes the steps that `bench.end_to_end.job` takes: the same fixed corpus, the same rounds with rollouts by the
same sampler, the same choice of sequences, the same optimizer and the dense forward KL. Both models read a prompt once
for all its completions. Two things favour the loop: its rollouts are sampled in the large batches of a round and not
step by step, and saving the student for the sampler is off the clock.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from pipeline.core.files import read_prompts, read_rollouts
from pipeline.core.prompt_sharing import tokens_to_read
from pipeline.core.types import Prompt, Rollout
from pipeline.losses.divergences import DIVERGENCES, DivergenceParams
from pipeline.models import language_model as lm
from pipeline.models.tokenizer import decode, eos_ids, load_tokenizer, shared_vocab
from pipeline.rollout.collect import RolloutParams, collect_rollouts, plan_batches, prompts_of_round, turn_of
from pipeline.rollout.hf_sampler import HFSampler
from pipeline.runtime.config import lookup, section
from pipeline.runtime.layout import LAYOUT
from pipeline.store.segment_reader import Segment
from pipeline.training.batches import BatchParams, Pick, Pool, make_pool, plan_steps
from pipeline.training.checkpoint import make_state
from pipeline.training.optimizer import OptimizerParams

_FORWARD_KL = DIVERGENCES["forward_kl"](DivergenceParams(name="forward_kl", beta=0.5, skew=0.0, normalise=False))


@dataclass(slots=True, kw_only=True)
class Live:
    """The time, tokens and losses of one student's run."""

    rollout_seconds: float = 0.0
    train_seconds: float = 0.0  # with the teacher's forward passes
    teacher_tokens: int = 0
    trained_tokens: int = 0
    losses: list[float]


def run_live(student: str, rounds: Sequence[Mapping[str, Any]], scratch: Path) -> Live:
    """Train the student for all rounds from work/STUDENT/init, in the directory of a job with a scored corpus."""
    began = time.perf_counter()
    tokenizer, teacher = load_tokenizer(LAYOUT.teacher), lm.load_model(LAYOUT.teacher)
    p = section(LAYOUT.params, OptimizerParams, "optimizer")
    model = lm.load_model(LAYOUT.round(student, "init").model, to_train=True)
    state, live = make_state(model, p, previous=None), Live(losses=[])
    schedule = transformers.get_scheduler(
        p.lr_scheduler_type, state.optimizer, p.warmup_steps, p.decay_steps
    ).lr_lambdas[0]
    live.train_seconds += time.perf_counter() - began
    for item in rounds:
        lm.save_model(model, scratch)
        tokenizer.save_pretrained(scratch)
        steps = range(item["first_step"], item["first_step"] + item["steps"])
        rollouts = _sample_rollouts(student, item["id"], scratch, tokenizer, live)
        began = time.perf_counter()
        for step, window in zip(steps, _planned(student, item["id"], rollouts, steps), strict=True):
            for group in state.optimizer.param_groups:
                group["lr"] = p.learning_rate * schedule(step + 1)
            live.losses.append(_backward(teacher, model.train(), window, shared_vocab(tokenizer), p))
            torch.nn.utils.clip_grad_norm_(model.parameters(), p.max_grad_norm)
            state.optimizer.step()
            state.optimizer.zero_grad(set_to_none=True)
            read = sum(map(tokens_to_read, window))
            live.teacher_tokens += read
            live.trained_tokens += read
        live.train_seconds += time.perf_counter() - began
    return live


def _sample_rollouts(student: str, round_id: str, model: Path, tokenizer: Any, live: Live) -> list[Rollout]:
    """Return the rollouts of a round and count their seconds; nothing is recorded of the student's distribution."""
    p, seed = section(LAYOUT.params, RolloutParams, "rollout"), lookup(LAYOUT.params, "seed")
    chosen: list[Prompt] = prompts_of_round(
        read_prompts(LAYOUT.prompts, "train"), p.prompts, turn_of(round_id), seed, student
    )
    if not chosen:
        return []
    sampler = HFSampler(
        model, precision=p.precision, vocab=shared_vocab(tokenizer), eos_ids=eos_ids(tokenizer), seed=seed
    )
    sampling = replace(p.sampling, record_max=0, record_tail_samples=0)
    rollouts: list[Rollout] = []
    began = time.perf_counter()
    for batch in plan_batches(chosen, p.samples_per_prompt, p.batch_size, name=f"{student}/{round_id}"):
        rollouts += collect_rollouts(batch, sampler, sampling, partial(decode, tokenizer), source="student")
    live.rollout_seconds += time.perf_counter() - began
    return rollouts


def _planned(student: str, round_id: str, rollouts: list[Rollout], steps: range) -> Iterator[list[list[Rollout]]]:
    """Yield the micro-batches of each step, as `stages.train` plans them."""
    mix, segment = section(LAYOUT.params, BatchParams, "batches"), Segment.open(LAYOUT.corpus.segment)
    own: Pool = make_pool(rollouts, segment, mix)  # its scores are never read
    corpus = make_pool(read_rollouts(LAYOUT.corpus.rollouts), segment, mix)
    key = (lookup(LAYOUT.params, "seed"), student, round_id)
    planned: list[list[list[Pick]]] = plan_steps(own, corpus, mix, key=key, steps=steps, replay=0.0)
    for step in planned:
        yield [[pool.rollouts[row] for pool, row in picks] for picks in step]


def _backward(
    teacher: lm.Model, model: lm.Model, window: Sequence[Sequence[Rollout]], vocab: int, p: OptimizerParams
) -> float:
    """Accumulate the gradient of the mean forward KL of a step's micro-batches, and return the mean."""
    tokens, total = sum(len(rollout.completion_ids) for rollouts in window for rollout in rollouts), 0.0
    for rollouts in window:
        texts = [rollout.prompt_ids for rollout in rollouts], [rollout.completion_ids for rollout in rollouts]
        with lm.autocast(lm.resolve_dtype(p.precision)):
            with torch.no_grad():
                states_ND = lm.completion_hidden(teacher, *texts)
            hidden_ND = lm.completion_hidden(model, *texts)
        with torch.no_grad():
            logp_NV = lm.head_of(teacher, vocab)(states_ND.float()).log_softmax(-1)
        loss = _FORWARD_KL(logp_NV, lm.head_of(model, vocab)(hidden_ND.float()).log_softmax(-1)).sum() / tokens
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return total
