"""Optimizer states outside DVC, of which only the newest stay (`optimizer.keep_rounds`).

A state is two thirds of a round's bytes, and only the next round reads it. Where states are dropped, the output of a
round that DVC tracks is a reference of 1 kB: the round, and the digest of the state, which is in .scratch.

* Guarantee: DVC sees the same output before and after a state is dropped, so nothing runs again.
* Rounds that are in rounds.yaml no longer, such as those of a student that has another name now, lose their states.
* Guarantee: a state counts only if it has the digest that its reference names. The stage `train` makes a missing one by
  training the rounds before again, and compares the digest.
"""

import hashlib
import pickle
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.core.hashing import digest
from pipeline.runtime.resume import ROOT

STATES = ROOT / "optimizers"


def state_of(student: str, round_id: str) -> Path:
    """Return the place of the state after a round."""
    return STATES / f"{student}-{round_id}.pt"


def write_reference(reference: Path, state: Path, student: str, round_id: str) -> None:
    """Write a reference to a state that will be at `state_of(student, round_id)`."""
    torch.save({"student": student, "round": round_id, "state": state_digest(state)}, reference)


def read_reference(optimizer: Path) -> dict[str, str] | None:
    """Return the content of a reference, None where the file is a state itself."""
    saved: dict[str, Any] = torch.load(optimizer, map_location="cpu", mmap=True, weights_only=True)
    return saved if "state" in saved else None


def kept_path(optimizer: Path) -> Path:
    """Return the state that an optimizer file is or refers to."""
    reference = read_reference(optimizer)
    return optimizer if reference is None else state_of(reference["student"], reference["round"])


def is_kept(optimizer: Path) -> bool:
    """Return whether the state that an optimizer file is or refers to is there; this reads all of the state."""
    reference = read_reference(optimizer)
    if reference is None:
        return True
    try:
        return state_digest(state_of(reference["student"], reference["round"])) == reference["state"]
    except (OSError, RuntimeError, pickle.UnpicklingError):  # missing or damaged
        return False


def state_digest(state: Path) -> str:
    """Return the digest of a state's numbers; the bytes of its file also depend on where a round was killed."""
    return digest(_content(torch.load(state, map_location="cpu", mmap=True, weights_only=True)))


def _content(value: Any) -> Any:
    """Return what identifies a value, with digests in place of tensors."""
    if isinstance(value, Tensor):
        numbers = value.contiguous().reshape(-1).view(torch.uint8).numpy()
        return [str(value.dtype), list(value.shape), hashlib.sha256(numbers.data).hexdigest()]
    if isinstance(value, dict):
        return sorted([str(key), _content(part)] for key, part in value.items())
    return list(map(_content, value)) if isinstance(value, list | tuple) else value


def drop_states(schedule: Collection[str], done: Sequence[str], keep_rounds: int | None) -> None:
    """Delete all but the newest states of a student, and the states of rounds that are not in the schedule.

    Args:
        schedule: The rounds of all students, named STUDENT-ROUND.
        done: The rounds of the student that are done, the newest last, named likewise.
        keep_rounds: The number of the student's states that stay; None: all.
    """
    states = {path.stem: path for path in STATES.glob("*.pt")}
    older = [name for name in done if name in states][:-keep_rounds] if keep_rounds else []
    for name in {*older} | ({*states} - {*schedule}):
        states[name].unlink()
