"""pipeline.core.prompt_sharing: prompts that repeat."""

from pipeline.core.prompt_sharing import distinct_prompts, tokens_read


def test_each_prompt_finds_its_place_among_the_distinct_ones() -> None:
    prompts = [[1, 2], [1], [1, 2], [2, 1], [1]]
    distinct, rows = distinct_prompts(prompts)
    assert distinct == [[1, 2], [1], [2, 1]]
    assert [distinct[row] for row in rows] == prompts
    assert distinct_prompts([]) == ([], [])


def test_a_prompt_costs_once_and_every_completion_counts() -> None:
    assert tokens_read([[1, 2, 3], [4], [1, 2, 3]], [[5], [6, 7], [5]]) == 3 + 1 + 1 + 2 + 1
