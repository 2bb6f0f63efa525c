"""Presets: whole params.yaml files in presets/, listed or chosen, with the rounds that follow from them.

Guarantee: a params.yaml or rounds.yaml that differs from every preset's is somebody's work and stays unless forced.
"""

import re
from pathlib import Path

from pipeline.configuration import check_params
from pipeline.errors import DataError, ParameterError
from pipeline.params import read_yaml
from pipeline.tables import replacing
from stages.command import PARAMS
from stages.rounds import ROUNDS, follow_params, rounds_of

PRESETS = Path("presets")
_TITLE = re.compile(r"# Preset `.*?`: (.*)")  # the first line of all but the default job's, which is params.yaml itself


def listing() -> list[str]:
    """A line for each preset: its name, what it is, and which of them params.yaml is."""
    texts = _texts()
    here = PARAMS.read_text() if PARAMS.exists() else ""
    width = max(map(len, texts), default=0)
    told = {name: found[1] if (found := _TITLE.match(text)) else "The default job." for name, text in texts.items()}
    return [f"{'*' if texts[name] == here else ' '} {name:{width}}  {about}" for name, about in told.items()]


def choose(name: str, *, force: bool) -> None:
    """Write params.yaml and rounds.yaml; those that were changed by hand are kept unless `force`."""
    texts = _texts()
    if name not in texts:
        known = ", ".join(texts) or "none, in this directory"
        raise ParameterError("preset", expected=f"one of: {known}", got=repr(name), remedy="run in the project's root")
    if not force:
        require_unchanged()
    check_params(PRESETS / f"{name}.yaml")
    with replacing(PARAMS) as temporary:
        temporary.write_text(texts[name])
    follow_params()


def require_unchanged() -> None:
    """A DataError where params.yaml or rounds.yaml is there and not as a preset has it."""
    remedy = "keep a copy and add --force"
    if PARAMS.exists() and PARAMS.read_text() not in _texts().values():
        raise DataError(PARAMS, expected="a preset as it was written", got="changes to it", remedy=remedy)
    if ROUNDS.exists() and read_yaml(ROUNDS) not in [rounds_of(PRESETS / f"{name}.yaml") for name in _texts()]:
        raise DataError(ROUNDS, expected="the rounds of a preset", got="others", remedy=remedy)


def _texts() -> dict[str, str]:
    return {path.stem: path.read_text() for path in sorted(PRESETS.glob("*.yaml"), key=lambda one: one.stem)}
