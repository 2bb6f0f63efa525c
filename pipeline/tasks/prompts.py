"""Choose a task's cases, and tokenise them as prompts.

* Guarantee: the choice depends on the seed and on each case's id alone. So cases that are added later do not reshuffle
  the others, and a smaller number of prompts is a part of a larger one.
* Long prompts are filtered and never cut, because a cut changes the question.
* Cost: about 2,000 prompts per second. Only as many cases are tokenised as are needed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from pipeline.core.files import rank_by_count
from pipeline.core.hashing import digest
from pipeline.core.types import Prompt
from pipeline.models.tokenizer import Tokenizer, completion_ids, render
from pipeline.runtime.config import Positive, parse
from pipeline.runtime.errors import DataError
from pipeline.runtime.progress import Meter, bar
from pipeline.tasks import Case, Cases, Split, find_task
from pipeline.tasks.templates import TemplateParams, render_template


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptParams:
    """The section `task` of params.yaml."""

    name: str
    """Name of the task, one of pipeline.tasks.TASKS."""
    train: Positive
    """Number of training prompts, at most all."""
    heldout: Positive
    """Number of held-out prompts, at most all."""
    max_prompt_tokens: Positive
    """Longer prompts are filtered. The tokens of the chat template count."""
    template: TemplateParams
    """Template of the prompts."""
    settings: dict[str, object]
    """The task's own settings; see its file."""


def find_cases(p: PromptParams) -> Cases:
    """Return every case of the task that `p` names.

    Raises:
        ParameterError: When the task does not exist, or its settings are wrong.
        DataError: When the data cannot be read.
    """
    task = find_task(p.name)
    cases = task.cases(parse(task.settings, p.settings, where="task.settings"))
    return cases if isinstance(cases, Cases) else Cases(cases)


def render_prompts(
    cases: Sequence[Case], tokenizer: Tokenizer, p: PromptParams, *, seed: int
) -> tuple[list[Prompt], list[str]]:
    """Return training prompts, then held-out prompts, each in random order, and a line about the counts of each split.

    A split with fewer prompts than requested is no error; the line reports it.

    Raises:
        DataError: When a split has no prompt.
        ParameterError: When the template needs messages that the data lack.
        ModelError: When the tokenizer has no chat template for the messages.
    """
    assert len({case.case_id for case in cases}) == len(cases), "a task gave two cases the same id"
    prompts: list[Prompt] = []
    lines: list[str] = []
    with bar("tokenise", p.train + p.heldout, unit="prompts") as meter:
        for split, requested in zip(get_args(Split), (p.train, p.heldout), strict=True):
            pool = sorted((case for case in cases if case.split == split), key=lambda case: digest(seed, case.case_id))
            rendered, too_long = _render(pool, tokenizer, requested, p, meter)
            if not rendered:
                raise _no_prompt(split, len(pool), p)
            prompts += rendered
            line = f"{split}: {len(rendered):,} of {len(pool):,} cases, {too_long:,} filtered as too long"
            missing = f"; {requested:,} were requested, no more are left" if len(rendered) < requested else ""
            lines.append(line + missing)
        meter.total = meter.n
    return prompts, lines


def _render(
    cases: list[Case], tokenizer: Tokenizer, count: int, p: PromptParams, meter: Meter
) -> tuple[list[Prompt], int]:
    """Return the first `count` prompts that are short enough, and the number of longer ones before the last."""
    prompts: list[Prompt] = []
    too_long = 0
    for case in cases:
        if len(prompts) == count:
            break
        text, ids = render(tokenizer, render_template(p.template, case))
        if len(ids) > p.max_prompt_tokens:
            too_long += 1
        else:
            prompt = Prompt(
                prompt_id=case.case_id,
                split=case.split,
                prompt_ids=ids,
                reference_ids=completion_ids(tokenizer, case.references[0]),
                prompt_text=text,
                references=list(case.references),
            )
            prompts.append(prompt)
            meter.update()
    return prompts, too_long


def _no_prompt(split: Split, cases: int, p: PromptParams) -> DataError:
    if cases:
        got, remedy = f"none of {cases:,}", f"raise task.max_prompt_tokens ({p.max_prompt_tokens})"
        return DataError(f"task {p.name}, {split}", expected="a prompt short enough", got=got, remedy=remedy)
    return DataError(f"task {p.name}, {split}", expected="cases", got="none", remedy="change task.settings")


def rank_tokens(prompts: Iterable[Prompt], vocab: int) -> NDArray[np.int32]:
    """Return all token ids [V] in the order of their frequency in prompts and references, the most frequent first.

    Codecs store an id as its place in this order, because small numbers need fewer bytes.
    """
    ids = [token for prompt in prompts for token in (*prompt.prompt_ids, *prompt.reference_ids)]
    return rank_by_count(np.bincount(np.asarray(ids, dtype=np.int64), minlength=vocab))
