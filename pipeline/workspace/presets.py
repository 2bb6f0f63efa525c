"""Presets: whole params.yaml files in presets/, listed or chosen, with the rounds that follow from them.

A preset says what is learnt by whom; a method of presets/methods, laid over it, has the few parameters that make
distillation supervised, sequence-level, mixed or on-policy. Guarantee: a params.yaml or rounds.yaml that differs from
every preset's is somebody's work and stays unless forced. Not taken: a whole file for each pair of them, forty files
that say the same.
"""

import re
from pathlib import Path

from pipeline.runtime.errors import DataError, ParameterError
from pipeline.runtime.files import replacing
from pipeline.runtime.layout import LAYOUT
from pipeline.runtime.yaml_files import edit_yaml, read_yaml
from pipeline.workspace.schedule import ROUNDS, follow_params, rounds_of
from pipeline.workspace.validation import check_params

PRESETS = Path("presets")
METHODS = PRESETS / "methods"
_TITLE = re.compile(r"# Preset `.*?`: (.*)")  # the first line of all but the default job's, which is params.yaml itself


def listing() -> list[str]:
    """A line for each preset: its name, what it is, and which of them params.yaml is."""
    texts = _texts(PRESETS)
    here = _preset_of(LAYOUT.params.read_text()) if LAYOUT.params.exists() else None
    width = max(map(len, texts), default=0)
    told = {name: found[1] if (found := _TITLE.match(text)) else "The default job." for name, text in texts.items()}
    return [f"{'*' if name == here else ' '} {name:{width}}  {about}" for name, about in told.items()]


def choose(name: str, method: str | None, *, force: bool) -> None:
    """Write params.yaml and rounds.yaml; those that were changed by hand are kept unless `force`."""
    text = combined(_find("preset", PRESETS, name), _find("method", METHODS, method) if method else None)
    if not force:
        require_unchanged()
    with replacing(LAYOUT.params) as temporary:
        temporary.write_text(text)
        check_params(temporary)
    follow_params()


def combined(preset: Path, method: Path | None) -> str:
    """The text of a preset with a method's parameters over its own, and what the method says of itself on top."""
    if method is None:
        return preset.read_text()
    over = read_yaml(method).items()
    changes: dict[tuple[str, ...], object] = {(part, key): value for part, keys in over for key, value in keys.items()}
    return _about(method) + edit_yaml(preset, changes)


def require_unchanged() -> None:
    """A DataError where params.yaml or rounds.yaml is there and not as a preset has it."""
    remedy = "keep a copy and add --force"
    if LAYOUT.params.exists() and _preset_of(LAYOUT.params.read_text()) is None:
        raise DataError(LAYOUT.params, expected="a preset as it was written", got="changes to it", remedy=remedy)
    if ROUNDS.exists() and read_yaml(ROUNDS) not in [rounds_of(PRESETS / f"{name}.yaml") for name in _texts(PRESETS)]:
        raise DataError(ROUNDS, expected="the rounds of a preset", got="others", remedy=remedy)


def _preset_of(text: str) -> str | None:
    """The preset that this is, with whichever method; None for another text."""
    methods = [None, *(METHODS / f"{name}.yaml" for name in _texts(METHODS))]
    likely = [one for one in methods if one is None or text.startswith(_about(one))]
    found = (name for name in _texts(PRESETS) for one in likely if combined(PRESETS / f"{name}.yaml", one) == text)
    return next(found, None)


def _about(method: Path) -> str:
    return method.read_text().partition("\n")[0] + "\n"


def _find(what: str, folder: Path, name: str) -> Path:
    texts = _texts(folder)
    if name not in texts:
        known = ", ".join(texts) or "none, in this directory"
        raise ParameterError(what, expected=f"one of: {known}", got=repr(name), remedy="run in the project's root")
    return folder / f"{name}.yaml"


def _texts(folder: Path) -> dict[str, str]:
    return {path.stem: path.read_text() for path in sorted(folder.glob("*.yaml"), key=lambda one: one.stem)}
