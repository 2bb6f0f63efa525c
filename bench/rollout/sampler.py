"""The sampler against transformers' `generate()` at equal output, on the default job's prompts, several samples each.

    python -m bench.rollout.sampler --json FILE

The teacher of the last run writes, because its completions end early. Greedy: both sides must write the same tokens, or
the run fails. Sampled: ours ends when it ends, then `generate()` writes the same batch, every row asked for as many
tokens as ours wrote in the longest (its rows cannot end apart), and only the tokens that ours wrote count for either.
Both sides take turns at each batch, in float32 unless told otherwise, and the best of each side's times counts, so that
neither pays for the first touch of memory or for a neighbour.
Not taken: equal lengths by banning eos, which hides what early ends are worth.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
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

Batches = list[tuple[list[list[int]], list[str]]]  # prompts, sample ids


@click.command(help=__doc__)
@click.option("--json", "out", type=Path, help="Write the rows here as well.")
@click.option("--prompts", default=10, show_default=True)
@click.option("--repeats", default=3, show_default=True, help="The best of so many counts.")
@click.option("--precision", type=click.Choice(["auto", "float32", "bfloat16"]), default="float32", show_default=True)
def main(out: Path | None, prompts: int, repeats: int, precision: str) -> None:
    p, kind = section(LAYOUT.params, RolloutParams, "rollout"), cast(Precision, precision)
    tokenizer = load_tokenizer(LAYOUT.teacher)
    ends = eos_ids(tokenizer)
    sampler = HFSampler(LAYOUT.teacher, precision=kind, vocab=shared_vocab(tokenizer), eos_ids=ends, seed=0)
    model = lm.load_model(LAYOUT.teacher, dtype=lm.resolve_dtype(kind))
    chosen = read_prompts(LAYOUT.prompts, "train")[:prompts]
    planned = plan_batches(chosen, p.samples_per_prompt, p.batch_size, name="bench")
    batches = [([one.prompt.prompt_ids for one in some], [one.sample_id for one in some]) for some in planned]
    rows = [
        *_pair("greedy", sampler, model, batches, replace(p.sampling, temperature=0.0), ends, repeats),
        *_pair("sampled", sampler, model, batches, replace(p.sampling, temperature=1.0, top_p=1.0), ends, repeats),
    ]
    table = [["name", "tokens", "seconds", "tokens/s", "of generate()"]]
    table += [
        [
            one["name"],
            f"{one['tokens']:,}",
            f"{one['seconds']:.2f}",
            f"{one['tokens_per_s']:,.0f}",
            f"{one['gain']:.2f}",
        ]
        for one in rows
    ]
    show(table, rows, out, precision=precision, samples_per_prompt=p.samples_per_prompt)


def _pair(
    name: str, sampler: HFSampler, model: Any, batches: Batches, way: Sampling, ends: Sequence[int], repeats: int
) -> list[Row]:
    tokens, own_seconds, their_seconds = 0, 0.0, 0.0
    for prompts, ids in batches:
        own, their = [], []
        for _ in range(repeats):
            ours, seconds = _timed(partial(sampler.sample, prompts, ids, way))
            own.append(seconds)
            theirs, seconds = _timed(partial(_generate, model, prompts, ours, way, ends))
            their.append(seconds)
            if way.temperature == 0:
                for one, other in zip(ours, theirs, strict=True):
                    assert one.token_ids == other[: len(one.token_ids)], "the two sides write different tokens"
        tokens += sum(len(one.token_ids) for one in ours)
        own_seconds, their_seconds = own_seconds + min(own), their_seconds + min(their)
    return [
        {"name": f"{name}: {side}", "tokens": tokens, "seconds": seconds}
        | {"tokens_per_s": tokens / seconds, "gain": their_seconds / seconds}
        for side, seconds in (("generate()", their_seconds), ("stillroom", own_seconds))
    ]


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    made = work()
    return made, time.perf_counter() - started


@torch.inference_mode()
def _generate(
    model: Any, prompts: list[list[int]], ours: Sequence[Sampled], way: Sampling, ends: Sequence[int]
) -> list[list[int]]:
    """New tokens of each row: greedy until its end, or as many as the longest of ours has."""
    width = max(map(len, prompts))
    ids_BP = torch.tensor([[0] * (width - len(one)) + one for one in prompts], device=model.device)
    mask_BP = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in prompts], device=model.device)
    longest = max(len(one.token_ids) for one in ours)
    lengths = {"max_new_tokens": way.max_new_tokens, "eos_token_id": list(ends), "do_sample": False}
    if way.temperature > 0:
        lengths = {"max_new_tokens": longest, "min_new_tokens": longest, "do_sample": True, "top_k": 0}
    made: list[list[int]] = model.generate(input_ids=ids_BP, attention_mask=mask_BP, **lengths)[:, width:].tolist()
    return made


if __name__ == "__main__":
    main()
