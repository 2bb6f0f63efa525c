"""The documentation: its links lead somewhere, its commands exist, and those of a project are run."""

import re
import shlex
import subprocess

import click
import pytest

import tests.test_end_to_end as end_to_end
from stages.cli import commands
from tests.test_end_to_end import ROOT, Project
from tests.test_reuse import committed

fresh, finished, project = end_to_end.fresh, end_to_end.finished, end_to_end.project
PAGES = sorted((ROOT / "docs").glob("*.md"))
TEXT = {page.name: page.read_text() for page in PAGES}
DOTTED = re.compile(r"`((?:\w+\.)+\w+)`")
BLOCK = re.compile(r"^```sh( norun)?\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: str, *, run: bool) -> list[str]:
    return [text for mark, text in BLOCK.findall(TEXT[page]) if run is not bool(mark)]


def lines(page: str) -> list[list[str]]:
    """Every command of a page, as words."""
    text = "\n".join([*blocks(page, run=True), *blocks(page, run=False)])
    found = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [words for words in found if words]


@pytest.mark.parametrize("page", list(TEXT))
def test_links_lead_to_files(page: str) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", TEXT[page]):
        assert (ROOT / "docs" / target).exists(), target


def test_the_index_names_every_page() -> None:
    assert set(re.findall(r"\]\((\S+\.md)\)", TEXT["index.md"])) == set(TEXT) - {"index.md"}


@pytest.mark.parametrize("page", list(TEXT))
def test_commands_are_those_that_exist(page: str) -> None:
    """Parsed with their options, not run."""
    for words in lines(page):
        if words[0] == "stillroom":
            _parse(commands, words[1:])
        elif words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), words
        elif words[0] == "dvc":
            from dvc.cli.parser import get_main_parser

            get_main_parser().parse_args(words[1:])


def _parse(command: click.Command, words: list[str]) -> None:
    if isinstance(command, click.Group):
        inner = command.get_command(click.Context(command), words[0])
        assert inner is not None, words
        return _parse(inner, words[1:])
    options = {name for one in command.params for name in one.opts}
    used = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert used <= options, f"{command.name}: no {used - options}"
    return None


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"`((?:\w+\.)+\w+)`", TEXT["coming-from.md"] + TEXT["how-to.md"])))
)
def test_parameters_that_are_named_exist(name: str) -> None:
    if name.partition(".")[0] in ("params", "rounds", "train", "test", "pipeline"):
        pytest.skip("a file or a module")
    place: object = end_to_end.PARAMS
    for key in name.split("."):
        assert isinstance(place, dict)
        assert key in place, name
        place = place[key]


def test_messages_in_the_troubleshooting_are_in_the_code() -> None:
    """Those without dots, which stand for something else."""
    code = "".join(path.read_text() for folder in ("pipeline", "stages") for path in (ROOT / folder).rglob("*.py"))
    for message in ("rounds that do not match schedule, students and sft", "add it to params.yaml", "got a full disk"):
        assert message in TEXT["troubleshooting.md"]
        assert message.removeprefix("got ") in code
    for message in ("expected the tokenizer of the teacher", "check the name, the network and HF_HUB_OFFLINE"):
        assert message.removeprefix("expected ") in code
    assert "the manifest of a sealed segment" in code
    assert "one that makes the same output" in code
    assert "first tuned on data of teacher" in code


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in TEXT if blocks(page, run=True)])
def test_the_commands_of_a_page_run(project: Project, page: str) -> None:
    """In a small project that has been run, in their order."""
    committed(project)
    script = "\n".join(['stillroom() { python -m stages.cli "$@"; }', *blocks(page, run=True)])
    done = subprocess.run(
        ["bash", "-e", "-c", script], cwd=project.path, env=project.env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
