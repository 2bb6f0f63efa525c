"""Choose a task's cases, and tokenise them as prompts.

* Guarantee: the choice depends on the seed and on each case's id alone. So cases that are added later do not reshuffle
  the others, and a smaller number of prompts is a part of a larger one.
* Guarantee: no prompt is there twice, and none is in both splits.
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
from pipeline.models.tokenizer import Tokenizer, fixed_date, shared_vocab, token_texts
from pipeline.runtime.config import Positive, parse
from pipeline.runtime.errors import DataError
from pipeline.runtime.progress import bar
from pipeline.tasks import Case, Cases, Split, find_task
from pipeline.tasks.selection import Selection, count_cases
from pipeline.tasks.templates import TemplateParams, render_template, shortened_line


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptParams:
    """The section `task` of params.yaml."""

    name: str
    """Name of the task, one of pipeline.tasks.TASKS."""
    train: Positive
    """Number of training prompts, at most all."""
    heldout: Positive
    """Number of held-out prompts; fewer in the data are an error."""
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
    """Return training prompts, then held-out prompts, each in random order, and lines that report on them.

    A line has the counts of each split; further lines have the number of conversations that a text shortens, and the
    date, where the chat template asks for one.

    Cases with equal prompts are one prompt, with the references of all. Training cases with a prompt of the held-out
    split are left out. A training split with fewer prompts than requested is no error; the line reports it.

    Raises:
        DataError: When a split has no prompt, the held-out split has fewer than requested, or a prompt has a token that
            the teacher's head has no row for.
        ParameterError: When the template needs messages that the data lack.
        ModelError: When the tokenizer has no chat template for the messages.
    """
    assert len({case.case_id for case in cases}) == len(cases), "a task gave two cases the same id"
    pools: dict[Split, dict[str, list[Case]]] = {split: {} for split in get_args(Split)}
    for case in sorted(cases, key=lambda case: digest(seed, case.case_id)):
        identity = digest(render_template(p.template, case), case.tools)
        pools[case.split].setdefault(identity, []).append(case)
    with bar("tokenise", p.train + p.heldout, unit="prompts") as meter:
        heldout = Selection(task=p.name, split="heldout", requested=p.heldout, longest=p.max_prompt_tokens)
        heldout.fill(list(pools["heldout"].values()), tokenizer, p.template, meter)
        train = Selection(task=p.name, split="train", requested=p.train, longest=p.max_prompt_tokens)
        train.taken = {tuple(prompt.prompt_ids) for prompt in heldout.prompts}
        train.held_out = count_cases(group for key, group in pools["train"].items() if key in pools["heldout"])
        left = [group for key, group in pools["train"].items() if key not in pools["heldout"]]
        train.fill(left, tokenizer, p.template, meter)
        meter.total = meter.n
    prompts = [*train.prompts, *heldout.prompts]
    _check_ids(prompts, tokenizer)
    date = fixed_date(tokenizer, p.template.variables) if p.template.chat else None
    dated = [f"the chat template's date is {date}; task.template.variables.date_string sets another"] if date else []
    return prompts, [train.line(), heldout.line(), *shortened_line(p.template, cases), *dated]


def _check_ids(prompts: Sequence[Prompt], tokenizer: Tokenizer) -> None:
    """Check that the teacher's head has a row for every token of the prompts and references."""
    vocab = shared_vocab(tokenizer)
    highest = max(token for prompt in prompts for token in (*prompt.prompt_ids, *prompt.reference_ids))
    if highest >= vocab:
        expected, name = (
            f"token ids below {vocab}, the rows of the teacher's head",
            token_texts(tokenizer, [highest])[0],
        )
        remedy = f"keep {name!r} out of the chat template, or use the model's own tokenizer"
        raise DataError("task.template", expected=expected, got=f"{highest} in a prompt", remedy=remedy)


def rank_tokens(prompts: Iterable[Prompt], vocab: int) -> NDArray[np.int32]:
    """Return all token ids [V] in the order of their frequency in prompts and references, the most frequent first.

    Codecs store an id as its place in this order, because small numbers need fewer bytes.
    """
    ids = [token for prompt in prompts for token in (*prompt.prompt_ids, *prompt.reference_ids)]
    return rank_by_count(np.bincount(np.asarray(ids, dtype=np.int64), minlength=vocab))
