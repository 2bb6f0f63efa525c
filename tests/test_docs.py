"""The documentation: links lead somewhere, commands, parameters and YAML are sound, what can run is run."""

import argparse
import re
import shlex
import subprocess
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pytest
from dvc.cli.parser import get_main_parser
from ruamel.yaml import YAML

import tests.project as end_to_end
from pipeline.report.views import VIEWS, connect, query
from pipeline.runtime.yaml_files import read_yaml
from pipeline.workspace.validation import check_params
from stages.cli.main import commands
from tests.messages import messages
from tests.project import ROOT, Project, committed

PAGES = {page.name: page for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
TEXT = {name: page.read_text() for name, page in PAGES.items()}
GENERATED = {"parameters.md"}
HISTORY = {"decisions.md", "results.md"}  # name what was measured then, and may be gone
WRITTEN = [name for name in TEXT if name not in GENERATED | HISTORY]
BLOCK = re.compile(r"^```(\w+)( norun)?\n(.*?)^```", re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r"(?:^    .*\n(?:\n(?=    ))?)+", re.MULTILINE)  # as the README has them
INLINE = re.compile(r"`((?:stillroom|dvc|make|python -m) [^`]*)`")
SHELL = {"export", "for", "done", "git", ".venv/bin/pip"}  # of which there is nothing to check but running
REPLACED = {"student", "sft", "settings", "reward", "corpus_weights", "student_fraction", "model"}


def blocks(page: str, kind: str, *, run: bool) -> list[str]:
    return [text for one, mark, text in BLOCK.findall(TEXT[page]) if one == kind and run is not bool(mark)]


def indented(page: str) -> list[str]:
    return [textwrap.dedent(text) for text in INDENTED.findall(BLOCK.sub("", TEXT[page]))]


def lines(page: str) -> list[list[str]]:
    """Every command of a page, as words."""
    ours = [text for text in indented(page) if re.match(r"(stillroom|dvc|make|python) ", text)]
    text = "\n".join([*blocks(page, "sh", run=True), *blocks(page, "sh", run=False), *ours])
    parts = [part for line in text.splitlines() for part in re.split(r" && ", line)]
    found = [shlex.split(part, comments=True) for part in parts]
    return [words for words in found if words]


@pytest.mark.parametrize("page", list(TEXT))
def test_links_lead_to_files(page: str) -> None:
    for target, anchor in re.findall(r"\]\((?!http)([^)#\s]*)(#[^)]*)?\)", TEXT[page]):
        path = PAGES[page].parent / target if target else PAGES[page]
        assert path.exists(), target
        assert not anchor or anchor[1:] in _anchors(path), anchor


def _anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


def test_the_index_names_every_page() -> None:
    assert set(re.findall(r"\]\((\S+\.md)\)", TEXT["index.md"])) == set(TEXT) - {"index.md", "README.md"}


@pytest.mark.parametrize("page", WRITTEN)
def test_commands_are_those_that_exist(page: str) -> None:
    """Parsed with their options, in blocks and in the text; those of blocks that may run are run below."""
    for words in [*lines(page), *(text.split() for text in INLINE.findall(TEXT[page]))]:
        if words[0] == "stillroom":
            _parse(commands, words[1:])
        elif words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), words
        elif words[0] == "dvc":
            _parse_dvc(words[1:])
        elif words[0] == "python":
            code = (ROOT / (words[2].replace(".", "/") + ".py")).read_text()
            assert all(f'"{word}"' in code for word in words if word.startswith("--")), words
        else:
            assert words[0] in SHELL, words


def _parse(command: click.Command, words: list[str]) -> None:
    if isinstance(command, click.Group) and words and words[0].islower():
        inner = command.get_command(click.Context(command), words[0])
        assert inner is not None, words
        return _parse(inner, words[1:])
    options = {name for one in command.params for name in one.opts} | {"--help"}
    used = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert used <= options, f"{command.name}: no {used - options}"
    return None


def _parse_dvc(words: list[str]) -> None:
    parser = get_main_parser()
    if len(words) > 1:
        parser.parse_args(words)
    else:
        (inner,) = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
        assert words[0] in inner.choices


@pytest.mark.parametrize("page", WRITTEN)
def test_parameters_that_are_named_exist(page: str) -> None:
    for name in set(re.findall(r"`([a-z_]+(?:\.[a-z_0-9]+)+)(?:: [^`]*)?`", TEXT[page])):
        section, *keys = name.split(".")
        if section not in end_to_end.PARAMS or keys[-1] in ("yaml", "md", "json"):
            continue  # a file or a module
        place: Any = end_to_end.PARAMS[section]
        for key in keys:
            assert isinstance(place, dict), name
            assert key in place, name
            place = place[key]


def _yaml(page: str) -> list[str]:
    ours = [text for text in indented(page) if re.match(r"\w+:( |$)", text, re.MULTILINE)]
    return [*blocks(page, "yaml", run=True), *ours]


@pytest.mark.parametrize(("page", "text"), [(page, text) for page in WRITTEN for text in _yaml(page)])
def test_yaml_is_sound_as_a_part_of_params_yaml(page: str, text: str, tmp_path: Path) -> None:
    document = _merged(read_yaml(ROOT / "params.yaml"), YAML(typ="safe", pure=True).load(text))
    YAML(typ="safe").dump(document, tmp_path / "params.yaml")
    check_params(tmp_path / "params.yaml")


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    inner = {
        key: _merged(below[key], one) for key, one in above.items() if key not in REPLACED and _both(below, one, key)
    }
    return {**below, **above, **inner}


def _both(below: Mapping[str, Any], one: Any, key: str) -> bool:
    return isinstance(one, dict) and isinstance(below.get(key), dict)


def test_there_is_a_query_for_each_view() -> None:
    assert re.findall(r"^\| `(\w+)` \|.*`select ", TEXT["commands.md"], re.MULTILINE) == list(VIEWS)


@pytest.mark.parametrize(
    "sql", [sql for page in WRITTEN for sql in re.findall(r"[`\"](select [^`\"]*)[`\"]", TEXT[page])]
)
def test_queries_run(tmp_path: Path, sql: str) -> None:
    query(connect(tmp_path / "work", tmp_path / "logs", tmp_path / "store"), sql)


ENTRIES = [text for _, text in re.findall(r"^\| (`+)(.+?)\1 \| ", TEXT["troubleshooting.md"], re.MULTILINE)]
ELSEWHERE = {  # told by others than a UserError: whose words they are
    "expected free space, got a full disk": "stages/_stage.py",
    "warning: student ...: first tuned on data of teacher ...": "pipeline/lineage/lineage.py",
    "Unable to acquire lock": "dvc",
}


def _covers(entry: str, message: str) -> bool:
    """Dots stand for anything; where an entry begins with them the message's own wording is not known either."""
    general = entry.startswith("expected ...,") and not message.startswith("expected ...")
    return not general and re.search(".*".join(map(re.escape, entry.split("..."))), message) is not None


@pytest.mark.parametrize("message", messages())
def test_every_message_is_in_the_troubleshooting(message: str) -> None:
    assert any(_covers(one, message) for one in ENTRIES), f"{messages()[message]}: {message}"


@pytest.mark.parametrize("entry", ENTRIES)
def test_the_troubleshooting_has_no_message_that_nobody_raises(entry: str) -> None:
    if entry not in ELSEWHERE:
        assert any(_covers(entry, one) for one in messages())
    elif ELSEWHERE[entry] != "dvc":
        words = max(entry.removeprefix("warning: ").split("..."), key=len)
        assert words in (ROOT / ELSEWHERE[entry]).read_text()


def test_a_message_without_an_entry_is_found() -> None:
    unknown = "expected a moon, got a cheese; mend params.yaml"
    assert not any(_covers(one, unknown) for one in ENTRIES)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in TEXT if blocks(page, "sh", run=True)])
def test_the_commands_of_a_page_run(project: Project, page: str) -> None:
    """In a small project that has been run, in their order."""
    committed(project)
    script = "\n".join(['stillroom() { python -m stages.cli "$@"; }', *blocks(page, "sh", run=True)])
    done = subprocess.run(
        ["bash", "-e", "-c", script], cwd=project.path, env=project.env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
