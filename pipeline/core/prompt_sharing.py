"""Sequences that share a prompt: a model reads each distinct prompt once, whatever the number of its completions."""

from collections.abc import Sequence

from pipeline.core.types import Rollout


def distinct_prompts(prompts: Sequence[list[int]]) -> tuple[list[list[int]], list[int]]:
    """The prompts without repetition, and for each of the B given ones its place among them."""
    places: dict[tuple[int, ...], int] = {}
    rows_B = [places.setdefault(tuple(prompt), len(places)) for prompt in prompts]
    return [list(prompt) for prompt in places], rows_B


def tokens_read(prompts: Sequence[list[int]], completions: Sequence[list[int]]) -> int:
    """Tokens that a model reads for these sequences."""
    return sum(map(len, distinct_prompts(prompts)[0])) + sum(map(len, completions))


def tokens_to_read(rollouts: Sequence[Rollout]) -> int:
    """Tokens that a model reads for these rollouts."""
    return tokens_read([one.prompt_ids for one in rollouts], [one.completion_ids for one in rollouts])
