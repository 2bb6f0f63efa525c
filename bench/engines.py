"""Sampling against `generate()`, and scoring against the bare forward pass, on the models and prompts of the last run.

    python -m bench.engines --json FILE

Both sides of a pair see the same prompts in the same batches on the same machine, one after the other. Sampling is
compared at equal length (eos off), so it shows the decode loop alone; the default job gains more, because finished
rows leave the batch.
"""

import time
from collections.abc import Callable
from pathlib import Path

import click
import torch

from bench.output import Row, show
from pipeline import lm
from pipeline.engines.base import Sampling, ToScore
from pipeline.engines.hf import HFSampler, HFScorer
from pipeline.params import section
from pipeline.scoring import ScoringParams
from pipeline.text import load_tokenizer, shared_vocab
from stages.command import PARAMS, PROMPTS, TEACHER
from stages.inputs import read_prompts


@click.command(help=__doc__)
@click.option("--json", "out", type=Path, help="Write the rows here as well.")
@click.option("--prompts", default=32, show_default=True)
@click.option("--tokens", default=32, show_default=True, help="New tokens of each completion.")
def main(out: Path | None, prompts: int, tokens: int) -> None:
    chosen = sorted((one.prompt_ids for one in read_prompts(PROMPTS, "train")[:prompts]), key=len)
    vocab = shared_vocab(load_tokenizer(TEACHER))
    rows = [*_sampling(chosen, vocab, tokens), *_scoring(chosen, vocab)]
    table = [["name", "tokens", "seconds", "tokens/s"]]
    table += [
        [one["name"], f"{one['tokens']:,}", f"{one['seconds']:.2f}", f"{one['tokens_per_s']:,.0f}"] for one in rows
    ]
    show(table, rows, out)


def _timed(name: str, tokens: int, work: Callable[[], object]) -> Row:
    started = time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    return {"name": name, "tokens": tokens, "seconds": seconds, "tokens_per_s": tokens / seconds}


def _sampling(prompts: list[list[int]], vocab: int, tokens: int) -> list[Row]:
    sampling = Sampling(
        max_new_tokens=tokens, temperature=1.0, top_p=1.0, support_threshold=0.005, support_max=64, tail_draws=0
    )
    sampler = HFSampler(TEACHER, precision="auto", vocab=vocab, eos_ids=[-1], seed=0)
    model = lm.load_model(TEACHER, dtype=lm.resolve_dtype("auto"))
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

    written = len(prompts) * tokens
    return [
        _timed("rollout: generate()", written, generate),
        _timed(
            "rollout: stillroom",
            written,
            lambda: sampler.sample(prompts, [str(index) for index in range(len(prompts))], sampling),
        ),
    ]


def _scoring(prompts: list[list[int]], vocab: int) -> list[Row]:
    p = section(PARAMS, ScoringParams, "scoring")
    scorer = HFScorer(TEACHER, precision=p.precision, vocab=vocab, support=p.support, batch_size=p.batch_size)
    model = lm.load_model(TEACHER)
    head = lm.head_of(model, vocab)
    sequences = [
        ToScore(prompt_ids=one[:-32], completion_ids=one[-32:], support_ids=[], tail_ids=[], tail_offset=[])
        for one in prompts
    ]

    def forward() -> None:
        with torch.inference_mode(), lm.autocast(lm.resolve_dtype(p.precision)):
            for one in sequences:
                hidden_TD = lm.completion_hidden(model, [one.prompt_ids], [one.completion_ids])
                head(hidden_TD).log_softmax(-1).topk(128)

    read = sum(map(len, prompts))
    return [
        _timed("score: forward and top-128", read, forward),
        _timed("score: stillroom", read, lambda: scorer.score(sequences, lambda _: None)),
    ]


if __name__ == "__main__":
    main()
