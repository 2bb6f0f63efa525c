"""Compare sampling with `generate()`, and scoring with the bare forward pass, on models and prompts of the last run.

    python -m bench.rollout.engines --json FILE

Both sides of a pair get the same prompts in the same batches, alternately, three times. The best time counts, by the
clock and in seconds of the processor, which other work disturbs less.

- Sampling is compared at equal length, without end tokens, so it measures the decode loop alone. The default job gains
  more, because finished rows leave the batch.
- Scoring contains everything that a score stage does with a loaded teacher: truncation, tail samples, codec, and a
  store that is written and synced. The bare forward pass ends with a top-128 and stores nothing.
"""

import itertools
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import click
import torch

from bench.clock import CLOCKS, timed
from bench.output import Row, show
from bench.store.segments import placeholder_header
from pipeline.core.files import read_prompts
from pipeline.core.sampling import Sampling
from pipeline.core.types import Prompt, reference_rollouts
from pipeline.models import language_model as lm
from pipeline.models.tokenizer import load_tokenizer, shared_vocab
from pipeline.rollout.hf_sampler import HFSampler
from pipeline.runtime.config import section
from pipeline.runtime.layout import LAYOUT
from pipeline.scoring.hf_scorer import HFScorer
from pipeline.scoring.score import ScoringParams, score_rollouts
from pipeline.store.store import Store
from pipeline.tasks.prompts import rank_tokens

_COMPLETION = 32  # the last tokens of a prompt, which are scored as a completion
_TURNS = 3


@click.command(help=__doc__)
@click.option("--json", "out", type=Path, help="Write the rows here as well.")
@click.option("--prompts", default=32, show_default=True)
@click.option("--tokens", default=32, show_default=True, help="New tokens of each completion.")
def main(out: Path | None, prompts: int, tokens: int) -> None:
    """Run the benchmark and print its table."""
    chosen = sorted(read_prompts(LAYOUT.prompts, "train")[:prompts], key=lambda prompt: len(prompt.prompt_ids))
    vocab = shared_vocab(load_tokenizer(LAYOUT.teacher))
    rows = [*_sampling([prompt.prompt_ids for prompt in chosen], vocab, tokens), *_scoring(chosen, vocab)]
    table = [["name", "tokens", "seconds", "tokens/s", "of the processor"]]
    table += [
        [
            row["name"],
            f"{row['tokens']:,}",
            f"{row['seconds']:.2f}",
            f"{row['tokens_per_s']:,.0f}",
            f"{row['seconds_of_processor']:.2f}",
        ]
        for row in rows
    ]
    show(table, rows, out)


def _alternately(tokens: int, works: Mapping[str, Callable[[], object]]) -> list[Row]:
    """Call each work alternately with the others, and return a row with its best time."""
    spent: dict[str, list[dict[str, float]]] = {name: [] for name in works}
    for _, (name, work) in itertools.product(range(_TURNS), works.items()):
        spent[name].append(timed(work))
    best = {name: {key: min(times[key] for times in turns) for key in CLOCKS} for name, turns in spent.items()}
    return [
        {"name": name, "tokens": tokens} | least | {"tokens_per_s": tokens / least["seconds"]}
        for name, least in best.items()
    ]


def _sampling(prompts: list[list[int]], vocab: int, tokens: int) -> list[Row]:
    sampling = Sampling(
        max_new_tokens=tokens, temperature=1.0, top_p=1.0, record_threshold=0.005, record_max=64, record_tail_samples=0
    )
    sampler = HFSampler(LAYOUT.teacher, precision="auto", vocab=vocab, eos_ids=[-1], seed=0)
    model = lm.load_model(LAYOUT.teacher, dtype=lm.resolve_dtype("auto"))
    width = max(map(len, prompts))
    ids_BP = torch.tensor([[0] * (width - len(ids)) + ids for ids in prompts])
    mask_BP = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts])

    def generate() -> None:
        with torch.inference_mode():
            model.generate(
                input_ids=ids_BP,
                attention_mask=mask_BP,
                do_sample=True,
                top_k=0,
                max_new_tokens=tokens,
                min_new_tokens=tokens,
            )

    return _alternately(
        len(prompts) * tokens,
        {
            "rollout: generate()": generate,
            "rollout: stillroom": lambda: sampler.sample(
                prompts, [str(index) for index in range(len(prompts))], sampling
            ),
        },
    )


def _scoring(prompts: list[Prompt], vocab: int) -> list[Row]:
    p = section(LAYOUT.params, ScoringParams, "scoring")
    scorer = HFScorer(
        LAYOUT.teacher, precision=p.precision, vocab=vocab, truncation=p.truncation, batch_size=p.batch_size
    )
    model = lm.load_model(LAYOUT.teacher)
    head, ranks, header = lm.head_of(model, vocab), rank_tokens(prompts, vocab), placeholder_header(p.codec, vocab)
    rollouts = reference_rollouts(
        [
            replace(prompt, prompt_ids=prompt.prompt_ids[:-_COMPLETION], reference_ids=prompt.prompt_ids[-_COMPLETION:])
            for prompt in prompts
        ]
    )

    def forward() -> None:
        with torch.inference_mode(), lm.autocast(lm.resolve_dtype(p.precision)):
            for start in range(0, len(rollouts), p.batch_size):
                batch = rollouts[start : start + p.batch_size]
                texts = [rollout.prompt_ids for rollout in batch], [rollout.completion_ids for rollout in batch]
                head(lm.completion_hidden(model, *texts)).log_softmax(-1).topk(128)

    def score() -> None:
        with tempfile.TemporaryDirectory() as folder:
            publish = partial(Store(root=Path(folder)).publish, header=header, token_of_rank=ranks)
            score_rollouts(rollouts, {}, lambda: scorer, publish, p, title="score")

    return _alternately(
        sum(len(prompt.prompt_ids) for prompt in prompts),
        {"score: forward and top-128": forward, "score: stillroom": score},
    )


if __name__ == "__main__":
    main()
