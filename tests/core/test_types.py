"""pipeline.core.types: references with earlier assistant turns, and what a mask leaves of a completion."""

from pipeline.core.types import reference_rollouts
from tests.factories import prompt, rollout

# User 1 2, assistant 3 4, user 5, and the answer 6 7.
TURNS = prompt("p", [1, 2, 3, 4, 5], reference_ids=[6, 7], assistant_mask=[False, False, True, True, False])


def test_a_reference_begins_with_the_first_turn_that_it_trains_on() -> None:
    (reference,) = reference_rollouts([TURNS])
    assert (reference.prompt_ids, reference.completion_ids) == ([1, 2], [3, 4, 5, 6, 7])
    assert reference.completion_mask == [True, True, False, True, True]
    assert (reference.scored_ids, reference.finished) == ([3, 4, 6, 7], True)


def test_a_conversation_that_an_assistant_begins_has_a_prompt_of_one_token() -> None:
    (reference,) = reference_rollouts([prompt("p", [1, 2, 3], reference_ids=[4], assistant_mask=[True, True, False])])
    assert (reference.prompt_ids, reference.completion_ids) == ([1], [2, 3, 4])
    assert reference.completion_mask == [True, False, True]


def test_a_reference_of_one_turn_has_no_mask() -> None:
    for mask in ([], [False] * 5):
        (reference,) = reference_rollouts([prompt("p", [1, 2, 3, 4, 5], reference_ids=[6, 7], assistant_mask=mask)])
        assert (reference.prompt_ids, reference.completion_ids) == ([1, 2, 3, 4, 5], [6, 7])
        assert (reference.completion_mask, reference.scored_ids) == ([], [6, 7])


def test_a_mask_of_all_tokens_is_none() -> None:
    masked = rollout("r", [7, 8, 9], completion_mask=[True, False, True])
    assert (masked.is_masked, masked.positions, masked.scored_ids) == (True, 2, [7, 9])
    for mask in ([], [True] * 3):
        plain = rollout("r", [7, 8, 9], completion_mask=mask)
        assert (plain.is_masked, plain.positions, plain.scored_ids) == (False, 3, [7, 8, 9])
