"""Write params.yaml from a preset: an overlay over the default job, which presets/default.yaml holds in full.

* A preset says which teacher teaches which student what. A method of presets/methods, laid over a preset, makes the
  distillation supervised, sequence-level, mixed or on-policy, and a file of presets/divergences sets its divergence.
  Each file holds only the parameters that differ.
* The default job has a file of its own, because the user edits params.yaml: a preset must give the same parameters
  whatever was chosen or edited before.
* Nothing is lost without `force`: params.yaml is replaced only if it is exactly what the preset in its first lines
  gives, and rounds.yaml only if it follows from params.yaml. The comparison needs no version control.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.runtime.atomic import replacing
from pipeline.runtime.errors import DataError, ParameterError
from pipeline.runtime.layout import LAYOUT
from pipeline.runtime.yaml_files import overlay_yaml, read_yaml
from pipeline.workspace.schedule import follow_params, read_schedule, rounds_document
from pipeline.workspace.validation import check_params

PRESETS = Path("presets")
METHODS = PRESETS / "methods"
DIVERGENCES = PRESETS / "divergences"
DEFAULT = PRESETS / "default.yaml"
# The folders of the files that are laid over the default job, by the kind that their first line names.
_FOLDERS = {"Preset": PRESETS, "Method": METHODS, "Divergence": DIVERGENCES}
_TITLE = re.compile(rf"^# ({'|'.join(_FOLDERS)}) `(.*?)`: (.*)", re.MULTILINE)


def listing() -> list[str]:
    """Return a line for each preset: its name and its title, with a star at the one that params.yaml is."""
    current = _preset_of(LAYOUT.params.read_text(encoding="utf-8")) if LAYOUT.params.exists() else None
    titles = {
        name: _TITLE.findall((PRESETS / f"{name}.yaml").read_text(encoding="utf-8"))[0][2] for name in _names(PRESETS)
    }
    width = max(map(len, titles), default=0)
    return [f"{'*' if name == current else ' '} {name:{width}}  {title}" for name, title in titles.items()]


def choose(name: str, method: str | None, divergence: str | None, *, force: bool) -> list[Path]:
    """Write params.yaml from a preset, a method and a divergence, and rounds.yaml from params.yaml.

    Returns:
        The files that are laid over the default job.

    Raises:
        ParameterError: There is no such preset, method or divergence, or the method's loss has no divergence.
        DataError: params.yaml or rounds.yaml was edited, and `force` is false.
    """
    names = {"Preset": name, "Method": method, "Divergence": divergence}
    overlays = [_find(kind, chosen) for kind, chosen in names.items() if chosen]
    if method and divergence:
        _check_divergence(method)
    if not force:
        require_unchanged()
    with replacing(LAYOUT.params) as temporary:
        temporary.write_text(overlay_yaml(DEFAULT, *overlays), encoding="utf-8")
        check_params(temporary)
    follow_params()
    return overlays


def defaults_of_methods() -> dict[tuple[str, ...], Any]:
    """Return what a method changes in the default job, by its path of keys, with the values of the default job."""
    default = read_yaml(DEFAULT)
    documents = [read_yaml(METHODS / f"{name}.yaml") for name in _names(METHODS)]
    return {keys: value for document in documents for keys, value in _replaced(document, default)}


def _replaced(above: Mapping[str, Any], below: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the values of `below` that an overlay replaces with other values, by their paths of keys."""
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below[key], dict):
            yield from (((key, *keys), replaced) for keys, replaced in _replaced(value, below[key]))
        elif value != below[key]:
            yield (key,), below[key]


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
    """Return the name of the preset that gives this text, whatever is laid over it; None for any other text."""
    names = {kind: name for kind, name, _ in _TITLE.findall(text)}
    overlays = [folder / f"{names[kind]}.yaml" for kind, folder in _FOLDERS.items() if kind in names]
    written = all(path.exists() for path in overlays) and overlay_yaml(DEFAULT, *overlays) == text
    return names.get("Preset") if written else None


def _check_divergence(method: str) -> None:
    """Check that the loss of a method has a divergence."""
    weights = {name: read_yaml(METHODS / f"{name}.yaml")["objective"]["cross_entropy"] for name in _names(METHODS)}
    methods = [name for name, weight in weights.items() if weight < 1]
    if method not in methods:
        expected, remedy = f"a method with a divergence: {', '.join(methods)}", "name one, or leave out --divergence"
        raise ParameterError("method", expected=expected, got=repr(method), remedy=remedy)


def _find(kind: str, name: str) -> Path:
    folder = _FOLDERS[kind]
    names = _names(folder)
    if name not in names:
        expected = f"one of: {', '.join(names) or 'none, in this directory'}"
        raise ParameterError(kind.lower(), expected=expected, got=repr(name), remedy="run in the project's root")
    return folder / f"{name}.yaml"


def _names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml") if path != DEFAULT)
