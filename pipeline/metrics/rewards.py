"""What a completion is worth: reward functions of a finished answer, by name or from a module of one's own.

`reward` in params.yaml maps names to weights; a completion's reward is the weighted sum, {} means that there is none.
A function takes an `Answer` and gives a number, larger for a better one. It is called once for each completion, in the
rollout stage, and the sum is stored with the rollout; so it may be slow, but should give the same answer the same
number. Code of one's own is imported, not watched by DVC: `dvc repro --force` the rollout stages after changing it.
Not taken: a reward model, which would be a third model to load; TRL's batched signature with keyword arguments.
"""

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import TypeAlias

from pipeline.core.types import Prompt, Rollout
from pipeline.metrics.bleu import sentence_bleu
from pipeline.metrics.exact_match import exact_match
from pipeline.metrics.rouge import rouge_l
from pipeline.runtime.errors import DataError, ParameterError


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A completion as a reward function sees it."""

    prompt: str
    text: str
    references: Sequence[str]  # every right answer, at least one
    tokens: int
    finished: bool  # and was not cut


Reward: TypeAlias = Callable[[Answer], float]
Weights: TypeAlias = Mapping[str, float]
Written: TypeAlias = tuple[str, int, bool]  # text, tokens, ended

REWARDS: dict[str, Reward] = {
    "exact_match": lambda answer: exact_match(answer.text, answer.references),  # the final numbers are equal
    "rouge_l": lambda answer: rouge_l(answer.text, answer.references),
    "bleu": lambda answer: sentence_bleu(answer.text, answer.references),
    "length": lambda answer: answer.tokens,
    "finished": lambda answer: answer.finished,
}


def find_reward(name: str) -> Reward:
    """A function of REWARDS, or `module:function`; a ParameterError when there is none."""
    if name in REWARDS:
        return REWARDS[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        known = ", ".join(REWARDS)
        raise _wrong(name, f"one of: {known}, or module:function", repr(name))
    try:
        found: object = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever the module runs into
        raise _wrong(name, "a function that can be imported", f"{type(error).__name__}: {error}") from error
    if not callable(found):
        raise _wrong(name, "a function", type(found).__name__)
    return found


def weighted_reward(weights: Weights) -> Callable[[Answer], float]:
    """The weighted sum of the named functions; a DataError when one gives no finite number."""
    functions = {name: find_reward(name) for name in weights}
    return lambda answer: sum(weights[name] * _number(name, functions[name], answer) for name in weights)


def reward_rollouts(rollouts: Sequence[Rollout], prompts: Sequence[Prompt], weights: Weights) -> list[Rollout]:
    """The same rollouts, each with what it is worth; unchanged without weights."""
    if not weights:
        return list(rollouts)
    value, of = weighted_reward(weights), {one.prompt_id: one for one in prompts}
    return [
        replace(one, reward=value(_answer(of[one.prompt_id], one.text, len(one.completion_ids), one.finished)))
        for one in rollouts
    ]


def mean_reward(prompts: Sequence[Prompt], written: Sequence[Written], weights: Weights) -> dict[str, float]:
    """The metric `reward` of one completion for each prompt; no metric without weights."""
    if not weights:
        return {}
    value = weighted_reward(weights)
    values = [value(_answer(prompt, *one)) for prompt, one in zip(prompts, written, strict=True)]
    return {"reward": sum(values) / len(values)}


def _answer(prompt: Prompt, text: str, tokens: int, finished: bool) -> Answer:
    return Answer(prompt=prompt.prompt_text, text=text, references=prompt.references, tokens=tokens, finished=finished)


def _number(name: str, function: Reward, answer: Answer) -> float:
    value: object = function(answer)
    if not isinstance(value, Real) or not math.isfinite(value):
        shown = f"{value!r} ({type(value).__name__})"
        raise DataError(f"reward.{name}", expected="a finite number", got=shown, remedy="mend the function")
    return float(value)


def _wrong(name: str, expected: str, got: str) -> ParameterError:
    return ParameterError(f"reward.{name}", expected=expected, got=" ".join(got.split()), remedy="mend params.yaml")
