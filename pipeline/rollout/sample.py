"""Sample completions into a rollouts file, batch by batch, going on where a killed run stopped."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from pipeline.core.files import read_rollouts
from pipeline.core.hashing import digest
from pipeline.core.types import Prompt, Rollout, Source
from pipeline.models.tokenizer import decode, eos_ids, load_tokenizer, shared_vocab
from pipeline.rollout.collect import RolloutParams, collect_rollouts, plan_batches
from pipeline.rollout.hf_sampler import HFSampler
from pipeline.runtime.files import write_rows
from pipeline.runtime.progress import bar
from pipeline.runtime.resume import DONE, resumable, whole_directory
from schemas.rollout import ROLLOUT


def sample_rollouts(
    model: Path,
    prompts: Sequence[Prompt],
    p: RolloutParams,
    *,
    samples: int,
    name: str,
    seed: int,
    source: Source,
    out: Path,
    first: Sequence[Rollout],
    finish: Callable[[list[Rollout]], list[Rollout]] = list,
    finish_key: object = None,
) -> int:
    """Write `first` and one rollout a prompt and sample, finished, to `out`; returns the tokens sampled.

    `finish` adds to the rollouts what is not sampled; `finish_key` is what it depends on. Without prompts no model is
    loaded.
    """
    if not prompts:
        write_rows(out, first, ROLLOUT)
        return 0
    tokenizer = load_tokenizer(model)
    sampler = HFSampler(
        model, precision=p.precision, vocab=shared_vocab(tokenizer), eos_ids=eos_ids(tokenizer), seed=seed
    )
    batches = plan_batches(prompts, samples, p.batch_size, name=name)
    inputs = digest(
        sampler.fingerprint,
        seed,
        asdict(p),
        finish_key,
        [[(one.sample_id, one.prompt.prompt_ids) for one in batch] for batch in batches],
    )
    with resumable({"rollouts.parquet": out}, inputs) as scratch:
        sampled: list[Rollout] = []
        with bar(f"rollout {name}", sum(map(len, batches)) * p.sampling.max_new_tokens) as meter:
            for index, batch in enumerate(batches):
                part = scratch / f"part-{index:05d}.parquet"
                if not part.is_file():
                    made = collect_rollouts(batch, sampler, p.sampling, partial(decode, tokenizer), source=source)
                    write_rows(part, made, ROLLOUT)
                sampled += read_rollouts(part)
                meter.update(sum(len(one.completion_ids) for one in sampled) - meter.n)
            meter.total = meter.n
        with whole_directory(scratch / DONE) as done:
            write_rows(done / "rollouts.parquet", [*first, *finish(sampled)], ROLLOUT)
    return sum(len(one.completion_ids) for one in sampled)
