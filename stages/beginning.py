"""The files behind `stillroom init`."""

from pathlib import Path

from pipeline.beginning import Wish, begin
from pipeline.configuration import check_params
from pipeline.errors import DataError
from pipeline.params import edit_yaml, read_yaml
from pipeline.tables import replacing
from stages.command import PARAMS
from stages.rounds import follow_params


def write_params(wish: Wish, out: Path, *, force: bool) -> list[str]:
    """Write `out` from params.yaml, and rounds.yaml where it is params.yaml itself; returns what was found out."""
    if out.exists() and not force:
        raise DataError(out, expected="no file", got="one", remedy="add --force to change it, or --out another")
    beginning = begin(wish, read_yaml(PARAMS))
    text = edit_yaml(PARAMS, beginning.changes)
    with replacing(out) as temporary:
        temporary.write_text(text)
        check_params(temporary)
    if out == PARAMS:
        follow_params()
    return beginning.told
