"""pipeline.training.states: references to optimizer states, which hold good only for the state that they name."""

from pathlib import Path

import pytest
import torch

from pipeline.training.states import (
    STATES,
    drop_states,
    is_kept,
    kept_path,
    read_reference,
    state_digest,
    state_of,
    write_reference,
)


@pytest.fixture(autouse=True)
def _directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_state(path: Path, value: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"optimizer": {"state": {0: torch.full((9,), value)}}, "average": None, "published": None}, path)
    return path


def test_a_reference_names_a_state_by_its_round_and_its_content() -> None:
    state, reference = write_state(state_of("small", "r1"), 1.0), Path("reference.pt")
    write_reference(reference, state, "small", "r1")
    content = reference.read_bytes()
    assert len(content) < 4096
    assert kept_path(reference) == state
    assert is_kept(reference)
    write_state(state, 2.0)  # of other parameters
    assert not is_kept(reference)
    write_state(state, 1.0)
    assert is_kept(reference)
    write_reference(reference, state, "small", "r1")
    assert reference.read_bytes() == content  # the same state has the same reference
    drop_states(["small-r1", "small-r2"], ["small-r1", "small-r2"], 1)  # the newest that is there stays
    assert is_kept(reference)
    drop_states(["small-r2"], [], 1)
    assert not state.exists()
    assert not is_kept(reference)
    assert reference.read_bytes() == content


def test_the_newest_states_of_the_schedule_stay() -> None:
    """Eight rounds that became three leave states, and so does a student that is gone."""
    names = [f"small-r{index}" for index in range(1, 9)]
    for name in (*names, "large-r1", "large-r2", "former-r1"):
        write_state(STATES / f"{name}.pt", 1.0)
    schedule = [*names[:3], "large-r1", "large-r2"]
    drop_states(schedule, names[:3], None)
    assert {path.stem for path in STATES.iterdir()} == {*schedule}
    drop_states(schedule, names[:3], 2)
    assert {path.stem for path in STATES.iterdir()} == {*schedule} - {"small-r1"}
    drop_states(schedule, names[:2], 1)  # the third round, which is not done again yet, keeps its state
    assert {path.stem for path in STATES.iterdir()} == {*schedule} - {"small-r1"}


def test_an_optimizer_file_that_is_no_reference_is_the_state() -> None:
    state = write_state(Path("work/small/r1/optimizer.pt"), 1.0)
    assert read_reference(state) is None
    assert kept_path(state) == state
    assert is_kept(state)


def test_the_digest_is_of_the_numbers_and_not_of_the_file() -> None:
    names = "exp_avg", "".join(["exp", "_avg"])  # pickle writes an object that it meets again as a reference
    paths = Path("same.pt"), Path("resumed.pt")
    for path, second in zip(paths, (names[0], names[1]), strict=True):
        torch.save({0: {names[0]: torch.ones(3)}, 1: {second: torch.ones(3)}}, path)
    assert paths[0].read_bytes() != paths[1].read_bytes()
    assert state_digest(paths[0]) == state_digest(paths[1])
    torch.save({0: {"exp_avg": torch.ones(3)}, 1: {"exp_avg": torch.ones(3, dtype=torch.float64)}}, paths[1])
    assert state_digest(paths[0]) != state_digest(paths[1])


def test_a_damaged_state_is_not_kept() -> None:
    state, reference = write_state(state_of("small", "r1"), 1.0), Path("reference.pt")
    write_reference(reference, state, "small", "r1")
    state.write_bytes(state.read_bytes()[:100])
    assert not is_kept(reference)
