"""Summarise documentation in one sentence: docstrings of installed packages, a data set that needs no download.

The first paragraph of a docstring is the summary that its author wrote, and the rest is the text. A text is used when
it can be summarised: it must open with a paragraph of prose. A parameter list, an example or a directive says how a
thing is called and not what it does.

* Guarantee: the same cases in the same order wherever the same packages are installed. No text occurs twice, within a
  split or across splits.
* Cost: about 7 s for the default packages.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.runtime.config import Positive
from pipeline.runtime.errors import DataError, ParameterError
from pipeline.runtime.progress import bar
from pipeline.tasks.base import Case, RougeL, Split
from pipeline.tasks.docstring_sources import STDLIB, docstrings, modules

_SUMMARY_CHARS = (20, 160)
_SUMMARY_WORDS = 4
_PROSE_WORDS = 10
_PROSE_LETTERS = 0.8  # share of letters and spaces

_BLANK = re.compile(r"\n\s*\n")
_WORD = re.compile(r"[A-Za-z][A-Za-z'’-]*")
_CODE = re.compile(r">>>|::|^\w+\(|[{}=|<>\\]|->|\*\*")
_TWO_SENTENCES = re.compile(r"[.!?]\s+[A-Z`]")
_POINTER = re.compile(r"(see|refer|deprecated|alias|same as|overrid\w*|todo|note|warning|internal)\b", re.IGNORECASE)
_PROSE_HEADING = re.compile(r"(Explanation|Description|Notes?|Overview)\n([-=~])\2+\s*\n\s*")
_UNDERLINE = re.compile(r"^\s*([-=~^\"*#+])\1{2,}\s*$", re.MULTILINE)
_MARKUP = re.compile(r"^\s*(>>>|\.\. |:(param|type|returns?|rtype|raises)\b)", re.MULTILINE)
_NO_PROSE = re.compile(r"[-*+•:@|#=~$]|\d+[.)]|```|[\w ]+:\s*(\n|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class DocstringSettings:
    """The section `task.settings` of docstrings."""

    train_packages: tuple[str, ...]
    """Import names of installed packages. "stdlib" stands for the standard library."""
    heldout_packages: tuple[str, ...]
    """Packages of the held-out split. A package is in one split only."""
    min_chars: Positive
    """Shortest text without its summary, in characters."""
    max_chars: Positive
    """Longest text without its summary, in characters."""


class Docstrings(RougeL):
    """The summary of a docstring from its other paragraphs, measured by ROUGE-L."""

    fields = ("body",)
    settings = DocstringSettings

    def cases(self, settings: DocstringSettings) -> Iterator[Case]:
        """Yield held-out cases, then training cases, in the order of packages, files and lines.

        Raises:
            ParameterError: When a package is in both splits.
            DataError: When a package is not installed, or has no Python source.
        """
        _require_disjoint(settings)
        used: set[str] = set()  # the names and the bodies of the cases so far
        files = _files(settings)
        with bar("read docstrings", len(files), unit="files") as meter:
            for split, module, path in files:
                for name, summary, body in _texts(module, path, settings):
                    key = " ".join(body.lower().split())
                    if used.isdisjoint((name, key)):  # a name occurs again where a definition has variants
                        used |= {name, key}
                        yield Case(case_id=name, split=split, fields={"body": body}, references=(summary,))
                meter.update()


def is_summary(text: str) -> bool:
    """Return whether a text is one sentence of 20-160 characters, with no code and no reference to another place."""
    shortest, longest = _SUMMARY_CHARS
    return (
        shortest <= len(text) <= longest
        and len(_WORD.findall(text)) >= _SUMMARY_WORDS
        and text[0].isalpha()
        and text[-1] not in ":,;"
        and not (_CODE.search(text) or _POINTER.match(text) or _TWO_SENTENCES.search(text))
    )


def opens_with_prose(body: str) -> bool:
    """Return whether the first paragraph has a sentence of ten words, after a heading such as "Explanation" if any."""
    heading = _PROSE_HEADING.match(body)
    paragraph = _BLANK.split(body[heading.end() :] if heading else body, maxsplit=1)[0]
    line = " ".join(paragraph.split())
    letters = sum(character.isalpha() or character == " " for character in line)
    return (
        len(_WORD.findall(line)) >= _PROSE_WORDS
        and letters >= _PROSE_LETTERS * len(line)
        and any(stop in f"{line} " for stop in (". ", ": ", ":: "))
        and not (_NO_PROSE.match(paragraph) or _POINTER.match(paragraph))
        and not (_UNDERLINE.search(paragraph) or _MARKUP.search(paragraph))
    )


def _texts(module: str, path: Path, settings: DocstringSettings) -> Iterator[tuple[str, str, str]]:
    """Yield name, summary and body of the usable docstrings of a file."""
    for name, text in docstrings(module, path):
        head, *rest = _BLANK.split(text, maxsplit=1)
        summary, body = " ".join(head.split()), "".join(rest).strip()
        if settings.min_chars <= len(body) <= settings.max_chars and is_summary(summary) and opens_with_prose(body):
            yield name, summary, body


def _files(settings: DocstringSettings) -> list[tuple[Split, str, Path]]:
    """Return split, module and file of every module, the held-out split first."""
    splits: dict[Split, tuple[str, ...]] = {"heldout": settings.heldout_packages, "train": settings.train_packages}
    return [
        (split, module, path)
        for split, packages in splits.items()
        for package in packages
        for module, path in _modules(package, where=f"task.settings.{split}_packages")
    ]


def _modules(package: str, *, where: str) -> list[tuple[str, Path]]:
    if files := modules(package):
        return files
    expected = f"installed packages with Python source, or {STDLIB!r}"
    remedy = f"install it (`pip install {package}`) or take it out of the list"
    raise DataError(where, expected=expected, got=f"{package!r}, which is none", remedy=remedy)


def _require_disjoint(settings: DocstringSettings) -> None:
    if both := sorted(set(settings.train_packages) & set(settings.heldout_packages)):
        where, expected = "task.settings.heldout_packages", "packages that are not in train_packages"
        raise ParameterError(where, expected=expected, got=", ".join(both), remedy="leave each package in one list")
