"""The files behind `stillroom init`."""

from pathlib import Path

from pipeline.beginning import Wish, begin
from pipeline.configuration import check_params
from pipeline.errors import DataError
from pipeline.params import edit_yaml, read_yaml
from pipeline.tables import replacing
from stages.command import PARAMS
from stages.presets import PRESETS, require_unchanged
from stages.rounds import follow_params

_NEED_NO_DATA = ("docstrings", "arithmetic-tiny")  # presets whose task has its data with it


def write_params(wish: Wish, out: Path, *, force: bool) -> list[str]:
    """Write `out` from params.yaml, and rounds.yaml where it is params.yaml itself; returns what was found out."""
    if not force:
        _spare(out)
    ready = {
        read_yaml(one)["task"]["name"]: read_yaml(one)["task"] for one in map(_preset, _NEED_NO_DATA) if one.exists()
    }
    beginning = begin(wish, read_yaml(PARAMS), ready)
    text = edit_yaml(PARAMS, beginning.changes, beginning.comments)
    with replacing(out) as temporary:
        temporary.write_text(text)
        check_params(temporary)
    if out == PARAMS:
        follow_params()
    return beginning.told


def _spare(out: Path) -> None:
    """A DataError where something would be lost: another file, or a params.yaml that is no preset."""
    if out == PARAMS:
        require_unchanged()
    elif out.exists():
        raise DataError(out, expected="no file", got="one", remedy="add --force to replace it, or --out another")


def _preset(name: str) -> Path:
    return PRESETS / f"{name}.yaml"
