"""Turn a task's cases into tokenised prompts, work/prompts, and rank the tokens by frequency for the codec."""

from pathlib import Path

import click
import numpy as np

from pipeline.models.tokenizer import load_tokenizer, shared_vocab
from pipeline.runtime.config import lookup, section
from pipeline.runtime.files import replacing, write_rows
from pipeline.runtime.layout import PARAMS, PROMPTS, RANKS
from pipeline.tasks.prompts import PromptParams, find_cases, rank_tokens, render_prompts
from schemas.prompt import PROMPT
from stages._stage import cost, run


@click.command(help=__doc__)
@click.option("--teacher", type=Path, required=True, help="Its tokenizer is taken.")
def main(teacher: Path) -> None:
    p = section(PARAMS, PromptParams, "task")
    with cost("prepare") as entry:
        tokenizer = load_tokenizer(teacher)
        prompts, counts = render_prompts(find_cases(p), tokenizer, p, seed=lookup(PARAMS, "seed"))
        write_rows(PROMPTS, prompts, PROMPT)
        with replacing(RANKS) as temporary, temporary.open("wb") as file:
            np.save(file, rank_tokens(prompts, shared_vocab(tokenizer)))
        entry["tokens"] = sum(len(one.prompt_ids) for one in prompts)
    for one in counts:
        click.echo(str(one))


if __name__ == "__main__":
    run(main)
