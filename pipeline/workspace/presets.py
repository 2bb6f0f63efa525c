"""Write params.yaml from a preset: an overlay over the default job, which presets/default.yaml holds in full.

* A preset says which teacher teaches which student what. A method of presets/methods, laid over a preset, makes the
  distillation supervised, sequence-level, mixed or on-policy. Either file holds only the parameters that differ.
* The default job has a file of its own, because the user edits params.yaml: a preset must give the same parameters
  whatever was chosen or edited before.
* Nothing is lost without `force`: params.yaml is replaced only if it is exactly what the preset in its first lines
  gives, and rounds.yaml only if it follows from params.yaml. The comparison needs no version control.
"""

import re
from pathlib import Path

from pipeline.runtime.atomic import replacing
from pipeline.runtime.errors import DataError, ParameterError
from pipeline.runtime.layout import LAYOUT
from pipeline.runtime.yaml_files import overlay_yaml, read_yaml
from pipeline.workspace.schedule import follow_params, read_schedule, rounds_document
from pipeline.workspace.validation import check_params

PRESETS = Path("presets")
METHODS = PRESETS / "methods"
DEFAULT = PRESETS / "default.yaml"
# The first line of a preset or of a method.
_TITLE = re.compile(r"^# (Preset|Method) `(.*?)`: (.*)", re.MULTILINE)


def listing() -> list[str]:
    """Return a line for each preset: its name and its title, with a star at the one that params.yaml is."""
    current = _preset_of(LAYOUT.params.read_text(encoding="utf-8")) if LAYOUT.params.exists() else None
    titles = {
        name: _TITLE.findall((PRESETS / f"{name}.yaml").read_text(encoding="utf-8"))[0][2] for name in _names(PRESETS)
    }
    width = max(map(len, titles), default=0)
    return [f"{'*' if name == current else ' '} {name:{width}}  {title}" for name, title in titles.items()]


def choose(name: str, method: str | None, *, force: bool) -> None:
    """Write params.yaml from a preset and a method, and rounds.yaml from params.yaml.

    Raises:
        ParameterError: There is no such preset or method.
        DataError: params.yaml or rounds.yaml was edited, and `force` is false.
    """
    overlays = [_find("preset", PRESETS, name), *([_find("method", METHODS, method)] if method else [])]
    if not force:
        require_unchanged()
    with replacing(LAYOUT.params) as temporary:
        temporary.write_text(overlay_yaml(DEFAULT, *overlays), encoding="utf-8")
        check_params(temporary)
    follow_params()


def require_unchanged() -> None:
    """Check that params.yaml and rounds.yaml, where they exist, are as a preset gives them.

    Raises:
        DataError: One of them was edited.
    """
    if not LAYOUT.params.exists():
        return
    remedy = "keep a copy and add --force"
    if _preset_of(LAYOUT.params.read_text(encoding="utf-8")) is None:
        raise DataError(LAYOUT.params, expected="a preset as it was written", got="changes to it", remedy=remedy)
    if LAYOUT.rounds.exists() and read_yaml(LAYOUT.rounds) != rounds_document(*read_schedule(LAYOUT.params)):
        raise DataError(LAYOUT.rounds, expected="the rounds of a preset", got="others", remedy=remedy)


def _preset_of(text: str) -> str | None:
    """Return the name of the preset that gives this text, with or without a method; None for any other text."""
    names = {kind: name for kind, name, _ in _TITLE.findall(text)}
    folders = {"Preset": PRESETS, "Method": METHODS}
    overlays = [folder / f"{names[kind]}.yaml" for kind, folder in folders.items() if kind in names]
    written = all(path.exists() for path in overlays) and overlay_yaml(DEFAULT, *overlays) == text
    return names.get("Preset") if written else None


def _find(kind: str, folder: Path, name: str) -> Path:
    names = _names(folder)
    if name not in names:
        expected = f"one of: {', '.join(names) or 'none, in this directory'}"
        raise ParameterError(kind, expected=expected, got=repr(name), remedy="run in the project's root")
    return folder / f"{name}.yaml"


def _names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml") if path != DEFAULT)
