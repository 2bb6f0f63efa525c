"""Find sequences that share a prompt: a model reads each distinct prompt once for all its completions."""

from collections.abc import Sequence

from pipeline.core.types import TokenSequence


def distinct_prompts(prompts: Sequence[list[int]]) -> tuple[list[list[int]], list[int]]:
    """Return the prompts without repetition, and for each of the B prompts its index among them."""
    index_of: dict[tuple[int, ...], int] = {}
    rows_B = [index_of.setdefault(tuple(prompt), len(index_of)) for prompt in prompts]
    return [list(prompt) for prompt in index_of], rows_B


def tokens_read(prompts: Sequence[list[int]], completions: Sequence[list[int]]) -> int:
    """Return the number of tokens that a model reads for these sequences."""
    return sum(map(len, distinct_prompts(prompts)[0])) + sum(map(len, completions))


def tokens_to_read(sequences: Sequence[TokenSequence]) -> int:
    """Return the number of tokens that a model reads for these sequences."""
    return tokens_read([part.prompt_ids for part in sequences], [part.completion_ids for part in sequences])
