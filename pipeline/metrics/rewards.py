"""Compute rewards: functions of a finished answer, by name or from a module of the user.

`reward` in params.yaml maps names to weights, and the reward of a completion is the weighted sum; {} disables rewards.
A function takes an `Answer` and returns a number, larger for a better answer. The rollout stage calls it once per
completion and stores the sum with the rollout. So a function may be slow, but should return the same number for the
same answer. DVC does not watch the user's module: after changing it, run `dvc repro --force` on the rollout stages.
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
    finished: bool  # it ends with an end token and was not cut


Reward: TypeAlias = Callable[[Answer], float]
Weights: TypeAlias = Mapping[str, float]
Completion: TypeAlias = tuple[str, int, bool]  # text, tokens, finished

REWARDS: dict[str, Reward] = {
    "exact_match": lambda answer: exact_match(answer.text, answer.references),  # 1 if the final numbers are equal
    "rouge_l": lambda answer: rouge_l(answer.text, answer.references),
    "bleu": lambda answer: sentence_bleu(answer.text, answer.references),
    "length": lambda answer: answer.tokens,
    "finished": lambda answer: answer.finished,
}


def find_reward(name: str) -> Reward:
    """Return a function of REWARDS by its name, or an imported function by `module:function`.

    Raises:
        ParameterError: When there is no such function, or its module cannot be imported.
    """
    if name in REWARDS:
        return REWARDS[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise _error(name, f"one of: {', '.join(REWARDS)}, or module:function", repr(name))
    try:
        function: object = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a module of the user raises exceptions of any type
        raise _error(name, "a function that can be imported", f"{type(error).__name__}: {error}") from error
    if not callable(function):
        raise _error(name, "a function", type(function).__name__)
    return function


def weighted_reward(weights: Weights) -> Callable[[Answer], float]:
    """Return the weighted sum of the named functions, as a function that raises a DataError for a result not finite.

    Raises:
        ParameterError: When a function does not exist.
    """
    functions = {name: find_reward(name) for name in weights}
    return lambda answer: sum(weights[name] * _number(name, functions[name], answer) for name in weights)


def reward_rollouts(rollouts: Sequence[Rollout], prompts: Sequence[Prompt], weights: Weights) -> list[Rollout]:
    """Return the same rollouts with their rewards, or unchanged without weights.

    Raises:
        ParameterError: When a function does not exist.
        DataError: When a function returns no finite number.
    """
    if not weights:
        return list(rollouts)
    reward, prompt_of = weighted_reward(weights), {prompt.prompt_id: prompt for prompt in prompts}
    answers = [
        _answer(prompt_of[rollout.prompt_id], rollout.text, rollout.positions, rollout.finished) for rollout in rollouts
    ]
    return [replace(rollout, reward=reward(answer)) for rollout, answer in zip(rollouts, answers, strict=True)]


def completion_rewards(prompts: Sequence[Prompt], completions: Sequence[Completion], weights: Weights) -> list[float]:
    """Return the reward of one completion for each prompt; none without weights.

    Raises:
        ParameterError: When a function does not exist.
        DataError: When a function returns no finite number.
    """
    if not weights:
        return []
    reward = weighted_reward(weights)
    return [reward(_answer(prompt, *completion)) for prompt, completion in zip(prompts, completions, strict=True)]


def _answer(prompt: Prompt, text: str, tokens: int, finished: bool) -> Answer:
    return Answer(prompt=prompt.prompt_text, text=text, references=prompt.references, tokens=tokens, finished=finished)


def _number(name: str, function: Reward, answer: Answer) -> float:
    value: object = function(answer)
    if not isinstance(value, Real) or not math.isfinite(value):
        got = f"{value!r} ({type(value).__name__})"
        raise DataError(f"reward.{name}", expected="a finite number", got=got, remedy="fix the function")
    return float(value)


def _error(name: str, expected: str, got: str) -> ParameterError:
    return ParameterError(f"reward.{name}", expected=expected, got=" ".join(got.split()))
