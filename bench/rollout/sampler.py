"""Compare the sampler with transformers' `generate()` at equal output, on the default job's prompts.

    python -m bench.rollout.sampler --json FILE

The teacher of the last run samples, because its completions finish early; each prompt has several samples.

- Greedy: both sides must write the same tokens, or the benchmark fails.
- Sampled: this pipeline's completions end where they end. Then `generate()` writes the same batch, with as many tokens
  in every row as the longest completion has, because its rows cannot end separately. Only the tokens of this pipeline's
  completions count for either side.
- Both sides take turns at each batch, in float32 by default, and the best time of each side counts, so that neither
  pays for the first use of memory or for other work.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import click
import torch

from bench.output import Row, show
from pipeline.core.files import read_prompts
from pipeline.core.sampling import Sampling
from pipeline.core.types import Precision
from pipeline.models import language_model as lm
from pipeline.models.tokenizer import eos_ids, load_tokenizer, shared_vocab
from pipeline.rollout.collect import RolloutParams, plan_batches
from pipeline.rollout.hf_sampler import HFSampler
from pipeline.rollout.sampler import Sampled
from pipeline.runtime.config import section
from pipeline.runtime.layout import LAYOUT


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """The two sides of a comparison and the batches that both sample."""

    sampler: HFSampler
    model: Any
    """The same model, for `generate()`."""

    batches: list[tuple[list[list[int]], list[str]]]
    """Token ids of the prompts and the sample ids of each batch."""

    ends: Sequence[int]
    """Token ids that end a completion."""


@click.command(help=__doc__)
@click.option("--json", "out", type=Path, help="Write the rows here as well.")
@click.option("--prompts", default=10, show_default=True)
@click.option("--repeats", default=3, show_default=True, help="The best of this many times counts.")
@click.option("--precision", type=click.Choice(["auto", "float32", "bfloat16"]), default="float32", show_default=True)
def main(out: Path | None, prompts: int, repeats: int, precision: str) -> None:
    """Run the benchmark and print its table."""
    p, kind = section(LAYOUT.params, RolloutParams, "rollout"), cast(Precision, precision)
    tokenizer = load_tokenizer(LAYOUT.teacher)
    ends = eos_ids(tokenizer)
    sampler = HFSampler(LAYOUT.teacher, precision=kind, vocab=shared_vocab(tokenizer), eos_ids=ends, seed=0)
    model = lm.load_model(LAYOUT.teacher, dtype=lm.resolve_dtype(kind))
    chosen = read_prompts(LAYOUT.prompts, "train")[:prompts]
    planned = plan_batches(chosen, p.samples_per_prompt, p.batch_size, name="bench")
    batches = [([slot.prompt.prompt_ids for slot in batch], [slot.sample_id for slot in batch]) for batch in planned]
    contest = Contest(sampler=sampler, model=model, batches=batches, ends=ends)
    rows = [
        *_compare("greedy", contest, replace(p.sampling, temperature=0.0), repeats),
        *_compare("sampled", contest, replace(p.sampling, temperature=1.0, top_p=1.0), repeats),
    ]
    table = [["name", "tokens", "seconds", "tokens/s", "of generate()"]]
    table += [
        [
            row["name"],
            f"{row['tokens']:,}",
            f"{row['seconds']:.2f}",
            f"{row['tokens_per_s']:,.0f}",
            f"{row['gain']:.2f}",
        ]
        for row in rows
    ]
    show(table, rows, out, precision=precision, samples_per_prompt=p.samples_per_prompt)


def _compare(name: str, contest: Contest, sampling: Sampling, repeats: int) -> list[Row]:
    """Return a row of `generate()` and a row of the sampler with this kind of sampling."""
    tokens, own_seconds, their_seconds = 0, 0.0, 0.0
    for prompts, ids in contest.batches:
        own, their = [], []
        for _ in range(repeats):
            ours, seconds = _timed(partial(contest.sampler.sample, prompts, ids, sampling))
            own.append(seconds)
            theirs, seconds = _timed(partial(_generate, contest, prompts, ours, sampling))
            their.append(seconds)
            if sampling.temperature == 0:
                for sampled, token_ids in zip(ours, theirs, strict=True):
                    assert sampled.token_ids == token_ids[: len(sampled.token_ids)], "the two sides write other tokens"
        tokens += sum(len(sampled.token_ids) for sampled in ours)
        own_seconds, their_seconds = own_seconds + min(own), their_seconds + min(their)
    return [
        {"name": f"{name}: {side}", "tokens": tokens, "seconds": seconds}
        | {"tokens_per_s": tokens / seconds, "gain": their_seconds / seconds}
        for side, seconds in (("generate()", their_seconds), ("stillroom", own_seconds))
    ]


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


@torch.inference_mode()
def _generate(
    contest: Contest, prompts: list[list[int]], ours: Sequence[Sampled], sampling: Sampling
) -> list[list[int]]:
    """Return the new tokens of each row: greedy until its end, or as many as the longest of `ours` has."""
    model, width = contest.model, max(map(len, prompts))
    ids_BP = torch.tensor([[0] * (width - len(ids)) + ids for ids in prompts], device=model.device)
    mask_BP = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts], device=model.device)
    longest = max(len(sampled.token_ids) for sampled in ours)
    options = {"max_new_tokens": sampling.max_new_tokens, "eos_token_id": [*contest.ends], "do_sample": False}
    if sampling.temperature > 0:
        options = {"max_new_tokens": longest, "min_new_tokens": longest, "do_sample": True, "top_k": 0}
    outputs: list[list[int]] = model.generate(input_ids=ids_BP, attention_mask=mask_BP, **options)[:, width:].tolist()
    return outputs


if __name__ == "__main__":
    main()
