"""Tests of the docstrings that are taken from source files, and of those that are skipped."""

import sys
from pathlib import Path

import pytest

from pipeline.runtime.errors import DataError, ParameterError
from pipeline.tasks.base import Case
from pipeline.tasks.docstring_sources import docstrings, modules
from pipeline.tasks.docstrings import Docstrings, DocstringSettings, is_summary, opens_with_prose

PROSE = "The result holds every line that was read so far, and it grows while the file is read again."


def function(name: str, summary: str, body: str, *, indent: str = "") -> str:
    text = f'def {name}():\n    """{summary}\n\n    {body}\n    """\n'
    return "".join(indent + line + "\n" for line in text.splitlines())


def package(root: Path, name: str, **files: str) -> None:
    for path, text in {"__init__": "", **files}.items():
        file = root / name / f"{path.replace('__dot__', '/')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


def settings(*, train: tuple[str, ...], heldout: tuple[str, ...] = (), min_chars: int = 40) -> DocstringSettings:
    return DocstringSettings(train_packages=train, heldout_packages=heldout, min_chars=min_chars, max_chars=900)


def cases(chosen: DocstringSettings) -> list[Case]:
    return list(Docstrings().cases(chosen))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory on the import path; its modules must never be imported."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_public_functions_are_found_in_order_without_importing(root: Path) -> None:
    summary = "Read all lines of a file."
    package(
        root,
        "room_a",
        __init__="raise RuntimeError('imported')\n" + function("first", summary, PROSE + " One."),
        zeta=function("late", summary, PROSE + " Two."),
        beta="class Jar:\n" + function("fill", summary, PROSE + " Three.", indent="    "),
        sub__dot__deep="if True:\n" + function("low", summary, PROSE + " Four.", indent="    "),
    )
    texts = cases(settings(train=("room_a",)))
    assert [case.case_id for case in texts] == [
        "room_a.first",
        "room_a.beta.Jar.fill",
        "room_a.sub.deep.low",
        "room_a.zeta.late",
    ]
    assert texts[0].references == (summary,)
    assert texts[0].fields["body"] == f"{PROSE} One."
    assert "room_a" not in sys.modules


def test_private_names_tests_and_broken_files_are_left_out(root: Path) -> None:
    def text(name: str) -> str:
        return function(name, "Read all lines of a file.", f"{PROSE} For {name}.")

    package(
        root,
        "room_b",
        _hidden=text("a"),
        tests__dot__deep=text("b"),
        test_it=text("c"),
        latest=text("d") + text("_e") + "class _Jar:\n" + function("f", "Read all lines of it.", PROSE, indent="    "),
        broken=text("g") + "def (:\n",
        escapes=text("h") + "x = '\\d'\n",
    )
    assert [case.case_id for case in cases(settings(train=("room_b",)))] == ["room_b.escapes.h", "room_b.latest.d"]


def test_no_text_is_used_twice_and_held_out_wins(root: Path) -> None:
    package(root, "room_c", a=function("one", "Read all lines of it.", PROSE))
    shouted = PROSE.replace("every", "EVERY")
    package(root, "room_d", a=function("two", "Read it all again now.", shouted) * 2)
    texts = cases(settings(train=("room_d",), heldout=("room_c",)))
    assert [(case.split, case.case_id) for case in texts] == [("heldout", "room_c.a.one")]


def test_the_length_of_the_text_is_bounded(root: Path) -> None:
    package(root, "room_e", a=function("one", "Read all lines of it.", PROSE))
    assert len(cases(settings(train=("room_e",), min_chars=len(PROSE)))) == 1
    assert not cases(settings(train=("room_e",), min_chars=len(PROSE) + 1))


def test_the_standard_library_is_a_package_and_names_its_modules() -> None:
    texts = dict(pair for module in modules("stdlib") for pair in docstrings(*module))
    assert "ast.NodeVisitor.visit" in texts
    assert not any(name.startswith(("tkinter.", "idlelib.", "test.", "_")) for name in texts)


@pytest.mark.parametrize("name", ["no_such_room", "email.mime", "sys", "-", ""])
def test_a_package_without_source_is_refused_with_the_remedy(name: str) -> None:
    with pytest.raises(DataError) as caught:
        cases(settings(train=(name,)))
    assert str(caught.value) == (
        f"task.settings.train_packages: expected installed packages with Python source, or 'stdlib', got {name!r}, "
        f"which is none; install it (`pip install {name}`) or take it out of the list"
    )


def test_a_package_in_both_splits_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"heldout_packages: expected packages that are not in train_packages"):
        cases(settings(train=("json", "email"), heldout=("email",)))


@pytest.mark.parametrize(
    ("text", "usable"),
    [
        ("Return the shortest path between two nodes.", True),
        ("Return the shortest path between two nodes", True),
        ("Shortest path.", False),
        ("Return it: " + "long " * 40, False),
        ("read(path, mode) gives the lines of it", False),
        ("Return the path where weight=None and so on.", False),
        ("See also the function that does this.", False),
        ("Deprecated, use the other function instead.", False),
        ("Return a path. It may be empty or long.", False),
        (".. note:: this is a thing to know", False),
        ("Return one of the following values:", False),
    ],
)
def test_summaries(text: str, usable: bool) -> None:
    assert is_summary(text) is usable


@pytest.mark.parametrize(
    ("body", "usable"),
    [
        (PROSE, True),
        (f"Explanation\n===========\n\n{PROSE}", True),
        (f"{PROSE}\n\nParameters\n----------\nx : int", True),
        (f"Parameters\n----------\n\n{PROSE}", False),
        (f"Parameters\n----------\nx : int\n    {PROSE}", False),
        (f"Args:\n    x: {PROSE}", False),
        (f"Example::\n\n    {PROSE}", False),
        (f">>> read()\n{PROSE}", False),
        (f".. note:: {PROSE}", False),
        (f":param x: {PROSE}", False),
        (f"- {PROSE}", False),
        (f"See the other one. {PROSE}", False),
        ("Only a few words here.", False),
        ("x_1 + y_2 = z_3 (4), and [5, 6] {7: 8} for all of a, b, c, d, e, f, g: 1, 2, 3.", False),
    ],
)
def test_bodies(body: str, usable: bool) -> None:
    assert opens_with_prose(body) is usable


def test_the_score_is_rouge_l() -> None:
    score = Docstrings().score
    assert score("Returns the nodes", ["returning the node."]) == 1.0  # stemmed, and case and stops do not count
    assert score("a b c d", ["a c"]) == pytest.approx(2 / 3)  # precision 2/4, recall 2/2
    assert score("...", ["a c"]) == 0.0
