"""Cases to prompts: choose a task's cases, tokenise them, leave out what is too long.

Guarantee: which cases are kept depends on the seed and on each case's id alone, so cases that are added later come
in between and do not reshuffle the others, and asking for fewer keeps a part of the same. Cost: about 2,000 prompts
a second; only as many are tokenised as it takes. Not taken: cutting long prompts, which changes the question.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from pipeline.core.hashing import digest
from pipeline.core.token_ranks import rank_by_count
from pipeline.core.types import Prompt
from pipeline.models.tokenizer import Tokenizer, completion_ids, render
from pipeline.runtime.config import Positive, parse
from pipeline.runtime.errors import DataError
from pipeline.runtime.progress import Meter, bar
from pipeline.tasks import Case, Split, find_task
from pipeline.tasks.templates import TemplateParams, render_template


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptParams:
    """The section `task` of params.yaml."""

    name: str
    """One of pipeline.tasks.TASKS."""
    train: Positive
    """How many training cases are kept."""
    heldout: Positive
    """How many held-out cases are kept."""
    max_prompt_tokens: Positive
    """Longer prompts are left out; with the chat template's tokens."""
    template: TemplateParams
    """How the model is asked."""
    settings: dict[str, object]
    """The task's own settings; see its file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitCounts:
    """What became of the cases of one split."""

    split: Split
    found: int
    asked: int
    kept: int
    too_long: int  # among the cases looked at, which are no more than it took

    def __str__(self) -> str:
        text = f"{self.split}: {self.kept:,} of {self.found:,} cases, {self.too_long:,} left out as too long"
        return text if self.kept == self.asked else f"{text}; {self.asked:,} were asked for, no more are left"


def find_cases(p: PromptParams) -> list[Case]:
    """Every case of the task that `p` names; mistakes in its settings are ParameterErrors."""
    task = find_task(p.name)
    return list(task.cases(parse(task.settings, p.settings, where="task.settings")))


def render_prompts(
    cases: Iterable[Case], tokenizer: Tokenizer, p: PromptParams, *, seed: int
) -> tuple[list[Prompt], list[SplitCounts]]:
    """Training prompts, then held-out prompts, each in their random order, and the counts of each split.

    A DataError when a split is left without any. The caller prints the counts: fewer than asked for is no error.
    """
    pool = list(cases)
    assert len({case.case_id for case in pool}) == len(pool), "a task gave two cases the same id"
    prompts: list[Prompt] = []
    counts: list[SplitCounts] = []
    with bar("tokenise", p.train + p.heldout, unit="prompts") as meter:
        for split, asked in zip(get_args(Split), (p.train, p.heldout), strict=True):
            found = sorted((case for case in pool if case.split == split), key=lambda case: digest(seed, case.case_id))
            kept, too_long = _render(found, tokenizer, asked, p, meter)
            if not kept:
                raise _no_case(split, len(found), p)
            prompts += kept
            counts.append(SplitCounts(split=split, found=len(found), asked=asked, kept=len(kept), too_long=too_long))
        meter.total = meter.n
    return prompts, counts


def _render(
    cases: list[Case], tokenizer: Tokenizer, asked: int, p: PromptParams, meter: Meter
) -> tuple[list[Prompt], int]:
    """The first `asked` prompts that are short enough, and how many longer ones came before the last."""
    kept: list[Prompt] = []
    too_long = 0
    for case in cases:
        if len(kept) == asked:
            break
        text, ids = render(tokenizer, render_template(p.template, case))
        if len(ids) > p.max_prompt_tokens:
            too_long += 1
        else:
            kept.append(_prompt(case, tokenizer, text, ids))
            meter.update()
    return kept, too_long


def _prompt(case: Case, tokenizer: Tokenizer, text: str, ids: list[int]) -> Prompt:
    return Prompt(
        prompt_id=case.case_id,
        split=case.split,
        prompt_ids=ids,
        reference_ids=completion_ids(tokenizer, case.references[0]),
        prompt_text=text,
        references=list(case.references),
    )


def _no_case(split: Split, found: int, p: PromptParams) -> DataError:
    if found:
        got, remedy = f"none of {found:,}", f"raise task.max_prompt_tokens ({p.max_prompt_tokens})"
        return DataError(f"task {p.name}, {split}", expected="a prompt short enough", got=got, remedy=remedy)
    return DataError(f"task {p.name}, {split}", expected="cases", got="none", remedy="change task.settings")


def rank_tokens(prompts: Iterable[Prompt], vocab: int) -> NDArray[np.int32]:
    """Token ids [V], the most frequent in prompts and references first: frequent ids get small numbers in the store."""
    ids = [one for prompt in prompts for one in (*prompt.prompt_ids, *prompt.reference_ids)]
    return rank_by_count(np.bincount(np.asarray(ids, dtype=np.int64), minlength=vocab))
