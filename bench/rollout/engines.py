"""Sampling against `generate()`, and scoring against the bare forward pass, on the models and prompts of the last run.

    python -m bench.rollout.engines --json FILE

Both sides of a pair see the same prompts in the same batches, turn by turn, three times; the best counts, by the clock
and in seconds of the processor, which neighbours disturb less. Sampling is compared at equal length (eos off), so it
shows the decode loop alone; the default job gains more, because finished rows leave the batch. Scoring stands for all
that a score stage does with the teacher loaded: truncation, draws, codec and a store that is written and synced; the
bare forward pass ends with a top-128 and keeps nothing.
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
from bench.store.segments import nameless
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

_COMPLETION = 32  # tokens of a prompt that are scored as if a student had written them
_TURNS = 3


@click.command(help=__doc__)
@click.option("--json", "out", type=Path, help="Write the rows here as well.")
@click.option("--prompts", default=32, show_default=True)
@click.option("--tokens", default=32, show_default=True, help="New tokens of each completion.")
def main(out: Path | None, prompts: int, tokens: int) -> None:
    chosen = sorted(read_prompts(LAYOUT.prompts, "train")[:prompts], key=lambda one: len(one.prompt_ids))
    vocab = shared_vocab(load_tokenizer(LAYOUT.teacher))
    rows = [*_sampling([one.prompt_ids for one in chosen], vocab, tokens), *_scoring(chosen, vocab)]
    table = [["name", "tokens", "seconds", "tokens/s", "of the processor"]]
    table += [
        [
            one["name"],
            f"{one['tokens']:,}",
            f"{one['seconds']:.2f}",
            f"{one['tokens_per_s']:,.0f}",
            f"{one['seconds_of_processor']:.2f}",
        ]
        for one in rows
    ]
    show(table, rows, out)


def _in_turn(tokens: int, works: Mapping[str, Callable[[], object]]) -> list[Row]:
    """The best of some turns of each."""
    spent: dict[str, list[dict[str, float]]] = {name: [] for name in works}
    for _, (name, work) in itertools.product(range(_TURNS), works.items()):
        spent[name].append(timed(work))
    best = {name: {key: min(one[key] for one in some) for key in CLOCKS} for name, some in spent.items()}
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
    ids_BP = torch.tensor([[0] * (width - len(one)) + one for one in prompts])
    mask_BP = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in prompts])

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

    return _in_turn(
        len(prompts) * tokens,
        {
            "rollout: generate()": generate,
            "rollout: stillroom": lambda: sampler.sample(prompts, [str(at) for at in range(len(prompts))], sampling),
        },
    )


def _scoring(prompts: list[Prompt], vocab: int) -> list[Row]:
    p = section(LAYOUT.params, ScoringParams, "scoring")
    scorer = HFScorer(
        LAYOUT.teacher, precision=p.precision, vocab=vocab, truncation=p.truncation, batch_size=p.batch_size
    )
    model = lm.load_model(LAYOUT.teacher)
    head, ranks, header = lm.head_of(model, vocab), rank_tokens(prompts, vocab), nameless(p.codec, vocab)
    rollouts = reference_rollouts(
        [
            replace(one, prompt_ids=one.prompt_ids[:-_COMPLETION], reference_ids=one.prompt_ids[-_COMPLETION:])
            for one in prompts
        ]
    )

    def forward() -> None:
        with torch.inference_mode(), lm.autocast(lm.resolve_dtype(p.precision)):
            for start in range(0, len(rollouts), p.batch_size):
                some = rollouts[start : start + p.batch_size]
                texts = [one.prompt_ids for one in some], [one.completion_ids for one in some]
                head(lm.completion_hidden(model, *texts)).log_softmax(-1).topk(128)

    def score() -> None:
        with tempfile.TemporaryDirectory() as folder:
            publish = partial(Store(root=Path(folder)).publish, header=header, token_of_rank=ranks)
            score_rollouts(rollouts, {}, lambda: scorer, publish, p, title="score")

    return _in_turn(
        sum(len(one.prompt_ids) for one in prompts),
        {"score: forward and top-128": forward, "score: stillroom": score},
    )


if __name__ == "__main__":
    main()
