"""Turn the cases of a task into tokenized prompts, and rank the tokens by frequency for the codec.

In: the data set, and the tokenizer in TEACHER, a model directory. Out: work/prompts, with one file per split.
"""

from pathlib import Path
from typing import Any, get_args

import click
import numpy as np

from pipeline.core.files import prompts_file
from pipeline.models.tokenizer import load_tokenizer, shared_vocab
from pipeline.runtime.atomic import replacing
from pipeline.runtime.files import write_rows
from pipeline.tasks import Split
from pipeline.tasks.prompts import PromptParams, find_cases, rank_tokens, render_prompts
from pipeline.tasks.table import count_lines
from schemas.prompt import PROMPT
from stages._stage import StageContext, run, stage

_WARNING = "warning: "  # the beginning of a line that the report shows again


@stage("prepare", seed=int, task=PromptParams)
def main(ctx: StageContext, p: Any, teacher: Path) -> None:
    """Write the prompts."""
    tokenizer = load_tokenizer(teacher)
    cases = find_cases(p.task)
    prompts, lines = render_prompts(cases, tokenizer, p.task, seed=p.seed)
    for split in get_args(Split):
        of_split = [prompt for prompt in prompts if prompt.split == split]
        write_rows(prompts_file(ctx.layout.prompts, split), of_split, PROMPT)
    with replacing(ctx.layout.ranks) as temporary, temporary.open("wb") as file:
        np.save(file, rank_tokens(prompts, shared_vocab(tokenizer)))
    ctx.cost["tokens"] = sum(len(prompt.prompt_ids) for prompt in prompts)
    for line in [*count_lines(cases), *lines]:
        if line.startswith(_WARNING):
            ctx.warn(line.removeprefix(_WARNING))
        else:
            click.echo(line)


if __name__ == "__main__":
    run(main)
