"""Summarise documentation in one sentence: the docstrings of installed packages, a data set that needs no download.

A docstring's first paragraph is the summary that its author wrote; the rest is the text. Guarantee: the same cases
in the same order wherever the same packages are installed, and no text twice, within a split or across. Cost: about
6 s for the default packages. Not taken: a published summarisation set, which the first `make repro` could not fetch
without a network; such sets come through `pipeline.tasks.loading`.

A text is kept when it can be summarised: it must open with a paragraph of prose, not with a parameter list, an
example or a directive, which tell how a thing is called and not what it does. What follows that paragraph stays.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.metrics.rouge import rouge_l
from pipeline.runtime.config import Positive
from pipeline.runtime.errors import DataError, ParameterError
from pipeline.runtime.progress import bar
from pipeline.tasks.base import Case, Judged, Split, mean
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
    """`task.settings` of docstrings."""

    train_packages: tuple[str, ...]
    """Import names of installed packages; "stdlib" stands for the standard library."""
    heldout_packages: tuple[str, ...]
    """The same for the held-out split; a package is in one split only."""
    min_chars: Positive
    """The shortest text, without its summary, in characters."""
    max_chars: Positive


class Docstrings:
    """The first paragraph of a docstring from the rest of it."""

    headline = "rouge_l"
    fields = ("body",)
    settings = DocstringSettings

    def cases(self, settings: DocstringSettings) -> Iterator[Case]:
        """Held-out cases, then training cases, in the order of packages, files and lines."""
        _require_disjoint(settings)
        ids: set[str] = set()
        bodies: set[str] = set()
        files = _files(settings)
        with bar("read docstrings", len(files), unit="files") as meter:
            for split, module, path in files:
                for name, summary, body in _texts(module, path, settings):
                    key = " ".join(body.lower().split())
                    if name not in ids and key not in bodies:  # a name returns where a definition has variants
                        ids.add(name)
                        bodies.add(key)
                        yield Case(case_id=name, split=split, fields={"body": body}, references=(summary,))
                meter.update()

    def score(self, completion: str, references: Sequence[str]) -> float:
        """ROUGE-L F1."""
        return rouge_l(completion, references)

    def metrics(self, judged: Sequence[Judged]) -> dict[str, float]:
        """The mean ROUGE-L F1."""
        return {"rouge_l": mean([one.score for one in judged])}


def is_summary(text: str) -> bool:
    """True for one sentence of 20-160 characters about the thing itself: no code, no pointer to elsewhere."""
    shortest, longest = _SUMMARY_CHARS
    return (
        shortest <= len(text) <= longest
        and len(_WORD.findall(text)) >= _SUMMARY_WORDS
        and text[0].isalpha()
        and text[-1] not in ":,;"
        and not (_CODE.search(text) or _POINTER.match(text) or _TWO_SENTENCES.search(text))
    )


def opens_with_prose(body: str) -> bool:
    """True when the first paragraph, after a heading such as "Explanation", has a sentence of ten words or more."""
    heading = _PROSE_HEADING.match(body)
    paragraph = _BLANK.split(body[heading.end() :] if heading else body, maxsplit=1)[0]
    line = " ".join(paragraph.split())
    letters = sum(one.isalpha() or one == " " for one in line)
    return (
        len(_WORD.findall(line)) >= _PROSE_WORDS
        and letters >= _PROSE_LETTERS * len(line)
        and any(stop in f"{line} " for stop in (". ", ": ", ":: "))
        and not (_NO_PROSE.match(paragraph) or _POINTER.match(paragraph))
        and not (_UNDERLINE.search(paragraph) or _MARKUP.search(paragraph))
    )


def _texts(module: str, path: Path, settings: DocstringSettings) -> Iterator[tuple[str, str, str]]:
    """(name, summary, body) of the usable docstrings of a file."""
    for name, text in docstrings(module, path, min_chars=settings.min_chars):
        head, *rest = _BLANK.split(text, maxsplit=1)
        summary, body = " ".join(head.split()), "".join(rest).strip()
        wanted = settings.min_chars <= len(body) <= settings.max_chars
        if wanted and is_summary(summary) and opens_with_prose(body):
            yield name, summary, body


def _files(settings: DocstringSettings) -> list[tuple[Split, str, Path]]:
    """Split, module and file, those held out first."""
    splits: tuple[tuple[Split, tuple[str, ...]], ...] = (
        ("heldout", settings.heldout_packages),
        ("train", settings.train_packages),
    )
    return [
        (split, *one)
        for split, packages in splits
        for package in packages
        for one in _modules(package, where=f"task.settings.{split}_packages")
    ]


def _modules(package: str, *, where: str) -> list[tuple[str, Path]]:
    try:
        return modules(package)
    except LookupError:
        raise DataError(
            where,
            expected=f"installed packages with Python source, or {STDLIB!r}",
            got=f"{package!r}, which is none",
            remedy=f"install it (`pip install {package}`) or take it out of the list",
        ) from None


def _require_disjoint(settings: DocstringSettings) -> None:
    if both := sorted(set(settings.train_packages) & set(settings.heldout_packages)):
        raise ParameterError(
            "task.settings.heldout_packages",
            expected="packages that are not in train_packages",
            got=", ".join(both),
            remedy="leave each package in one of the lists",
        )
