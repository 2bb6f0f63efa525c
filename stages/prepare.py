"""Turn the cases of a task into tokenized prompts, and rank the tokens by frequency for the codec.

In: the data set, and the tokenizer in TEACHER, a model directory. Out: work/prompts.
"""

from pathlib import Path
from typing import Any

import click
import numpy as np

from pipeline.models.tokenizer import load_tokenizer, shared_vocab
from pipeline.runtime.atomic import replacing
from pipeline.runtime.files import write_rows
from pipeline.tasks.prompts import PromptParams, find_cases, rank_tokens, render_prompts
from schemas.prompt import PROMPT
from stages._stage import StageContext, run, stage


@stage("prepare", seed=int, task=PromptParams)
def main(ctx: StageContext, p: Any, teacher: Path) -> None:
    """Write the prompts."""
    tokenizer = load_tokenizer(teacher)
    prompts, lines = render_prompts(find_cases(p.task), tokenizer, p.task, seed=p.seed)
    write_rows(ctx.layout.prompts, prompts, PROMPT)
    with replacing(ctx.layout.ranks) as temporary, temporary.open("wb") as file:
        np.save(file, rank_tokens(prompts, shared_vocab(tokenizer)))
    ctx.cost["tokens"] = sum(len(prompt.prompt_ids) for prompt in prompts)
    click.echo("\n".join(lines))


if __name__ == "__main__":
    run(main)
