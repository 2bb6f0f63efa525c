"""Fill one split with prompts: those that are short enough, each once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from pipeline.core.types import Prompt
from pipeline.models.tokenizer import Chat, Tokenizer, assistant_mask, reference_ids, render
from pipeline.runtime.errors import DataError, ModelError
from pipeline.runtime.progress import Meter
from pipeline.tasks import Case, Split
from pipeline.tasks.templates import TemplateParams, answer_of, prompt_of

_Ids = tuple[int, ...]
_SHOWN = 60  # characters of a case in a message
_LOUD = 0.1  # the share of prompts left out above which the line is a warning


@dataclass(slots=True, kw_only=True)
class Selection:
    """The prompts of one split, and how many of its cases became none."""

    task: str
    split: Split
    requested: int
    longest: int  # tokens of a prompt
    taken: set[_Ids] = field(default_factory=set)  # prompts of the held-out split
    prompts: list[Prompt] = field(default_factory=list)
    cases: int = 0  # of the split
    too_long: int = 0
    merged: int = 0  # they have the prompt of another case, which got their references
    held_out: int = 0  # their prompts are in the held-out split
    places: dict[_Ids, int] = field(default_factory=dict)  # of the prompts, by their token ids

    def fill(
        self, groups: Sequence[Sequence[Case]], tokenizer: Tokenizer, template: TemplateParams, meter: Meter
    ) -> None:
        """Take the prompts of the first groups that are short enough; the cases of a group have equal prompts.

        Raises:
            DataError: When there is no prompt, or fewer held-out prompts than requested.
        """
        cases = count_cases(groups)
        self.cases, self.merged = self.held_out + cases, cases - len(groups)
        for group in groups:
            if len(self.prompts) == self.requested:
                break
            if self._take(_prompt(group, tokenizer, template), len(group)):
                meter.update()
        if not self.prompts:
            raise self._empty()
        # A smaller training set only repeats its prompts, but errors of metrics follow from the held-out set's size.
        if self.split == "heldout" and len(self.prompts) < self.requested:
            expected, got = f"{self.requested:,} prompts", f"{len(self.prompts):,} of {self.cases:,} cases"
            filtered = f", {self.too_long:,} filtered as too long" if self.too_long else ""
            remedy = f"lower it to {len(self.prompts)} and evaluation.prompts with it, or add held-out data"
            raise DataError("task.heldout", expected=expected, got=got + filtered, remedy=remedy)

    def line(self) -> str:
        """Return the counts as a line, a warning where more than a tenth of the prompts were left out."""
        many = self.too_long > _LOUD * (len(self.prompts) + self.too_long) or self.held_out > _LOUD * self.cases
        line = "warning: " if many else ""
        line += f"{self.split}: {len(self.prompts):,} of {self.cases:,} cases, {self.too_long:,} filtered as too long"
        line += f", {self.merged:,} merged with equal prompts" if self.merged else ""
        line += f", {self.held_out:,} left out because their prompts are held out" if self.held_out else ""
        missing = f"; {self.requested:,} were requested, no more are left"
        return line + (missing if len(self.prompts) < self.requested else "")

    def _take(self, prompt: Prompt, cases: int) -> bool:
        """Add a prompt of so many cases, and return whether it is a new one."""
        ids = tuple(prompt.prompt_ids)
        if len(ids) > self.longest:
            self.too_long += cases
        elif ids in self.taken:
            self.held_out += cases
        elif ids in self.places:  # templates trim texts
            self.merged += 1
            earlier = self.prompts[self.places[ids]]
            references = list(dict.fromkeys([*earlier.references, *prompt.references]))
            self.prompts[self.places[ids]] = replace(earlier, references=references)
        else:
            self.places[ids] = len(self.prompts)
            self.prompts.append(prompt)
            return True
        return False

    def _empty(self) -> DataError:
        where = f"task {self.task}, {self.split}"
        if self.held_out:
            got = f"none of {self.cases:,}, because {self.held_out:,} have prompts of the held-out split"
            return DataError(where, expected="a prompt", got=got, remedy="use more fields in task.template.text")
        if self.cases:
            got, remedy = f"none of {self.cases:,}", f"raise task.max_prompt_tokens ({self.longest})"
            return DataError(where, expected="a prompt short enough", got=got, remedy=remedy)
        return DataError(where, expected="cases", got="none", remedy="change task.settings")


def count_cases(groups: Iterable[Sequence[Case]]) -> int:
    """Return the number of cases in all groups."""
    return sum(map(len, groups))


def _prompt(group: Sequence[Case], tokenizer: Tokenizer, template: TemplateParams) -> Prompt:
    """Return the prompt of cases that have the same; the answer is that of the first.

    Raises:
        ModelError: When the tokenizer cannot render it; the message shows the case.
    """
    case, prompt = group[0], prompt_of(template, group[0])
    try:
        text, ids = render(tokenizer, prompt)
    except ModelError as error:
        raise error.at(f"the case {next(iter(case.fields.values()))[:_SHOWN]!r}") from error
    mask = assistant_mask(tokenizer, prompt, ids) if case.all_turns and isinstance(prompt, Chat) else []
    return Prompt(
        prompt_id=case.case_id,
        split=case.split,
        prompt_ids=ids,
        reference_ids=reference_ids(tokenizer, prompt, answer_of(template, case)),
        prompt_text=text,
        references=list(dict.fromkeys(reference for member in group for reference in member.references)),
        assistant_mask=mask if any(mask) else [],
    )
