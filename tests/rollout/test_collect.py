"""Which prompts a round takes, and the rollouts made of what a sampler writes."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from pipeline.core.sampling import Sampling
from pipeline.core.types import Rollout, reference_rollouts
from pipeline.rollout.collect import (
    collect_rollouts,
    plan_batches,
    prompts_of_round,
    replayed_rollouts,
    shuffle_prompts,
)
from pipeline.rollout.sampler import Sampled
from tests.factories import answered_prompt, answered_prompts

SAMPLING = Sampling(
    max_new_tokens=6, temperature=1.0, top_p=1.0, record_threshold=0.01, record_max=4, record_tail_samples=0
)


PROMPTS = answered_prompts()


class Echo:
    """A sampler that answers each prompt with its first token and the end."""

    fingerprint = "echo"

    def sample(self, prompts_ids: Sequence[list[int]], sample_ids: Sequence[str], sampling: Sampling) -> list[Sampled]:
        return [
            Sampled(
                token_ids=[ids[0], 257],
                logp=[-0.5, -0.1],
                support_ids=[[ids[0], 3], []],
                tail_sample_ids=[[7], []],
                tail_offset=[0.5, 0.0],
                finished=True,
            )
            for ids in prompts_ids
        ]


def test_the_choice_depends_on_key_and_ids_alone() -> None:
    shuffled = shuffle_prompts(PROMPTS, 0, "small", "r1")
    assert sorted(prompt.prompt_id for prompt in shuffled) == sorted(prompt.prompt_id for prompt in PROMPTS)
    assert shuffle_prompts(PROMPTS[::-1], 0, "small", "r1") == shuffled
    assert shuffle_prompts(PROMPTS, 0, "small", "r2") != shuffled
    assert shuffle_prompts(PROMPTS, 1, "small", "r1") != shuffled


def test_rounds_take_every_prompt_once_before_any_comes_again() -> None:
    turns = [[prompt.prompt_id for prompt in prompts_of_round(PROMPTS, 4, turn, 0, "small")] for turn in range(6)]
    assert {len(ids) for ids in turns} == {4}
    epochs = [{*turns[first], *turns[first + 1]} for first in (0, 2, 4)]
    assert [len(ids) for ids in epochs] == [8, 8, 8]  # of nine; one a time is left out
    assert turns[0] != turns[2] != turns[4]
    assert turns[0] == [prompt.prompt_id for prompt in prompts_of_round(PROMPTS[::-1], 4, 0, 0, "small")]
    assert turns[0] != [prompt.prompt_id for prompt in prompts_of_round(PROMPTS, 4, 0, 0, "other")]


@pytest.mark.parametrize("count", [9, 100])
def test_a_round_of_all_prompts_is_an_epoch(count: int) -> None:
    for turn in range(3):
        assert {prompt.prompt_id for prompt in prompts_of_round(PROMPTS, count, turn, 0)} == {
            prompt.prompt_id for prompt in PROMPTS
        }
    assert prompts_of_round(PROMPTS, 0, 1, 0) == []


def test_batches_hold_prompts_of_similar_length_whatever_their_order() -> None:
    batches = plan_batches(PROMPTS, 2, 4, name="small/r1")
    assert [len(batch) for batch in batches] == [4, 4, 4, 4, 2]
    lengths = [len(rollout.prompt.prompt_ids) for batch in batches for rollout in batch]
    assert lengths == sorted(lengths)
    ids = [rollout.sample_id for batch in batches for rollout in batch]
    assert len(set(ids)) == 18
    assert {"small/r1/p0/0", "small/r1/p0/1"} <= set(ids)
    assert plan_batches(PROMPTS[::-1], 2, 4, name="small/r1") == batches


def test_rollouts_carry_prompt_author_and_what_the_author_found_likely() -> None:
    (batch,) = plan_batches([answered_prompt("p")], 1, 4, name="small/r1")
    (made,) = collect_rollouts(batch, Echo(), SAMPLING, lambda ids: f"{len(ids)} tokens", source="student")
    assert made == Rollout(
        rollout_id="small/r1/p/0",
        prompt_id="p",
        source="student",
        policy="echo",
        prompt_ids=[65, 66, 67],
        completion_ids=[65, 257],
        behaviour_logp=[-0.5, -0.1],
        support_ids=[[65, 3], []],
        tail_sample_ids=[[7], []],
        tail_offset=[0.5, 0.0],
        finished=True,
        text="2 tokens",
    )


def test_the_teachers_completions_need_no_union() -> None:
    (batch,) = plan_batches([answered_prompt("p")], 1, 4, name="teacher")
    (made,) = collect_rollouts(batch, Echo(), SAMPLING, str, source="teacher")
    assert (made.source, made.support_ids, made.behaviour_logp) == ("teacher", [], [-0.5, -0.1])


def test_references_have_no_author() -> None:
    (made,) = reference_rollouts([answered_prompt("p")])
    assert (made.rollout_id, made.source, made.policy) == ("dataset/p", "dataset", "")
    assert (made.completion_ids, made.text, made.finished) == ([97, 98, 257], "ab", True)
    assert (made.behaviour_logp, made.support_ids) == ([], [])


def of_round(step: int, count: int = 2) -> list[Rollout]:
    """A round's own rollouts."""
    (batch,) = plan_batches(
        [answered_prompt(f"p{step}-{index}") for index in range(count)], 1, 10, name=f"small/{step}"
    )
    made = collect_rollouts(batch, Echo(), SAMPLING, str, source="student")
    return [replace(rollout, step=step) for rollout in made]


def test_replay_keeps_the_latest_rounds_and_only_the_label_changes() -> None:
    """From file to file, as the rounds go by."""
    earlier: list[Rollout] = []
    for step in (0, 10, 20, 30):
        again = replayed_rollouts(earlier, rounds=2, max_age=None, step=step)
        assert sorted({rollout.step for rollout in again}) == [
            earlier for earlier in (step - 20, step - 10) if earlier >= 0
        ]
        assert {rollout.source for rollout in again} <= {"replay"}
        earlier = [*of_round(step), *again]
    fresh = {rollout.rollout_id: rollout for step in (10, 20) for rollout in of_round(step)}
    assert [replace(rollout, source="student") for rollout in again] == [fresh[rollout.rollout_id] for rollout in again]
    assert len(again) == 4


def test_replay_drops_what_is_too_old_and_leaves_others_alone() -> None:
    earlier = [*of_round(10), *replayed_rollouts(of_round(0), rounds=1, max_age=None, step=10)]
    actual = [
        sorted({rollout.step for rollout in replayed_rollouts(earlier, rounds=rounds, max_age=age, step=20)})
        for rounds, age in [(0, None), (1, None), (9, None), (9, 20), (9, 19), (9, 9)]
    ]
    assert actual == [[], [10], [0, 10], [0, 10], [10], []]
