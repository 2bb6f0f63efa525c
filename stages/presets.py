"""Choosing a preset: a whole params.yaml from presets/, and its rounds."""

from pathlib import Path

from pipeline.configuration import check_params
from pipeline.errors import DataError, ParameterError
from pipeline.tables import replacing
from stages.command import PARAMS
from stages.rounds import follow_params

PRESETS = Path("presets")


def choose(name: str, *, force: bool) -> None:
    """Write params.yaml and rounds.yaml; a params.yaml that was changed by hand is kept unless `force`."""
    texts = {path.stem: path.read_text() for path in sorted(PRESETS.glob("*.yaml"), key=lambda one: one.stem)}
    if name not in texts:
        known = ", ".join(texts) or "none, in this directory"
        raise ParameterError("preset", expected=f"one of: {known}", got=repr(name), remedy="run in the project's root")
    if PARAMS.exists() and PARAMS.read_text() not in texts.values() and not force:
        raise DataError(
            PARAMS, expected="a preset as it was written", got="changes to it", remedy="keep a copy and add --force"
        )
    check_params(PRESETS / f"{name}.yaml")
    with replacing(PARAMS) as temporary:
        temporary.write_text(texts[name])
    follow_params()
