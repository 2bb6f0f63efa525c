"""pipeline.scoring.score: what the store knows never reaches the teacher, and nothing is scored twice."""

import errno
from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Semaphore

import pytest

from pipeline.core.prompt_sharing import tokens_to_read
from pipeline.core.types import Rollout, ScoredSequence, Scores, TokenSequence
from pipeline.scoring.score import score_rollouts
from pipeline.store.keys import key_of
from tests.factories import rollout, scores_of, scoring_params
from tests.training_jobs import CountingTeacher

PARAMS = scoring_params()


def run(
    teacher: CountingTeacher, rollouts: Sequence[Rollout], known: dict[tuple[str, str], Scores]
) -> list[ScoredSequence]:
    return score_rollouts(rollouts, known, teacher.load, teacher.publish, PARAMS, title="score")


ROLLOUTS = [rollout(f"r{token}", [token, token + 1]) for token in (5, 3, 9, 7, 1)]


def test_everything_is_scored_in_the_given_order_and_published_as_it_goes() -> None:
    teacher = CountingTeacher()
    scored = run(teacher, ROLLOUTS, {})
    assert [sequence.rollout for sequence in scored] == ROLLOUTS
    assert [sequence.scores.stats.token_logp_N[0] for sequence in scored] == [-5, -3, -9, -7, -1]
    assert teacher.published == [["r5", "r3"], ["r9", "r7"], ["r1"]]


def test_a_known_sequence_never_reaches_the_teacher() -> None:
    teacher = CountingTeacher()
    scored = run(teacher, ROLLOUTS, {key_of(ROLLOUTS[1]): scores_of([40, 41])})
    assert teacher.scored == [[5, 6], [9, 10], [7, 8], [1, 2]]
    assert [sequence.scores.stats.token_logp_N[0] for sequence in scored] == [-5, -40, -9, -7, -1]
    assert teacher.published == [["r5", "r9"], ["r7", "r1"]]


def test_the_teacher_is_not_even_loaded_when_all_is_known() -> None:
    teacher = CountingTeacher()
    known = {key_of(rollout): scores_of(rollout.completion_ids) for rollout in ROLLOUTS}
    assert [sequence.rollout for sequence in run(teacher, ROLLOUTS, known)] == ROLLOUTS
    assert (teacher.loaded, teacher.published) == (0, [])
    assert run(teacher, [], {}) == []
    assert teacher.loaded == 0


def test_a_sequence_that_occurs_twice_is_scored_once_and_returned_twice() -> None:
    teacher = CountingTeacher()
    twins = [rollout("one", [4]), rollout("other", [8]), rollout("twin", [4])]
    scored = run(teacher, twins, {})
    assert sorted(teacher.scored) == [[4], [8]]
    assert [sequence.rollout.rollout_id for sequence in scored] == ["one", "other", "twin"]
    assert [sequence.scores.stats.token_logp_N[0] for sequence in scored] == [-4, -8, -4]


def test_the_completions_of_one_prompt_are_scored_side_by_side() -> None:
    """In whatever order they come; they are returned in that order."""
    other = [replace(rollout, prompt_ids=[3]) for rollout in ROLLOUTS[2:4]]
    mixed = [ROLLOUTS[0], other[0], ROLLOUTS[1], other[1], ROLLOUTS[4]]
    teacher = CountingTeacher()
    assert [sequence.rollout for sequence in run(teacher, mixed, {})] == mixed
    assert teacher.scored == [[9, 10], [7, 8], [5, 6], [3, 4], [1, 2]]
    assert tokens_to_read(mixed) == (1 + 2 * 2) + (2 + 3 * 2)


def test_the_same_tokens_with_another_support_are_another_question() -> None:
    teacher = CountingTeacher()
    plain, likely = rollout("plain", [4]), rollout("likely", [4], support_ids=[[6]])
    run(teacher, [plain, likely], {key_of(plain): scores_of([4])})
    assert teacher.published == [["likely"]]


def test_what_was_published_before_an_interruption_is_known_afterwards() -> None:
    teacher = CountingTeacher()
    kept: dict[tuple[str, str], Scores] = {}

    def publish(fresh: Sequence[ScoredSequence]) -> None:
        if kept:
            raise KeyboardInterrupt
        kept.update({key_of(sequence.rollout): sequence.scores for sequence in fresh})

    with pytest.raises(KeyboardInterrupt):
        score_rollouts(ROLLOUTS, {}, teacher.load, publish, PARAMS, title="score")
    again = CountingTeacher()
    run(again, ROLLOUTS, kept)
    assert again.scored == [[9, 10], [7, 8], [1, 2]]


def test_a_part_is_written_while_the_next_is_scored_and_never_two() -> None:
    """Each publication waits until the teacher scores again, so waiting for a publication would never end."""
    teacher, asked = CountingTeacher(), Semaphore(0)
    ahead: list[int] = []  # parts that were not published when the next one was scored
    score = teacher.score

    def watched(sequences: Sequence[TokenSequence], on_tokens: Callable[[int], object]) -> list[Scores]:
        ahead.append(len(ahead) - len(teacher.published))
        if len(ahead) > 1:
            asked.release()
        return score(sequences, on_tokens)

    def publish(fresh: Sequence[ScoredSequence]) -> None:
        is_last = len(fresh) < PARAMS.flush_every
        assert is_last or asked.acquire(timeout=20), "the teacher waits for the writer"
        teacher.publish(fresh)

    teacher.score = watched  # type: ignore[method-assign]
    score_rollouts(ROLLOUTS, {}, teacher.load, publish, PARAMS, title="score")
    assert teacher.published == [["r5", "r3"], ["r9", "r7"], ["r1"]]
    assert max(ahead) == 1


@pytest.mark.parametrize("failing, scored_parts", [(0, 4), (2, 5)])
def test_a_writer_that_fails_is_heard_at_the_next_part_and_at_the_end(failing: int, scored_parts: int) -> None:
    teacher, calls = CountingTeacher(), iter(range(3))

    def publish(fresh: Sequence[ScoredSequence]) -> None:
        if next(calls) == failing:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        score_rollouts(ROLLOUTS, {}, teacher.load, publish, PARAMS, title="score")
    assert len(teacher.scored) == scored_parts


def test_what_was_scored_is_published_when_the_teacher_fails_afterwards() -> None:
    teacher = CountingTeacher()
    score = teacher.score

    def fails_later(sequences: Sequence[TokenSequence], on_tokens: Callable[[int], object]) -> list[Scores]:
        if teacher.scored:
            raise RuntimeError("teacher")
        return score(sequences, on_tokens)

    teacher.score = fails_later  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="teacher"):
        run(teacher, ROLLOUTS, {})
    assert teacher.published == [["r5", "r3"]]
