"""The documentation: its links, commands, parameters, queries and YAML are valid, and its commands run."""

import argparse
import re
import shlex
import subprocess
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from dvc.cli.parser import get_main_parser
from ruamel.yaml import YAML

from pipeline.core.types import ScoredSequence
from pipeline.report.views import VIEWS, connect, query
from pipeline.runtime.yaml_files import read_yaml
from pipeline.store.segment_reader import Segment
from pipeline.store.segment_writer import write_segment
from pipeline.workspace.validation import check_params
from stages.cli.main import commands
from tests.factories import rollout
from tests.messages import messages
from tests.project import PARAMS, ROOT, Project, committed
from tests.scores import header, top_only

DOCS = ROOT / "docs"
PAGES = {"README.md": ROOT / "README.md", "CONTRIBUTING.md": ROOT / "CONTRIBUTING.md"}
PAGES |= {page.relative_to(DOCS).as_posix(): page for page in sorted(DOCS.rglob("*.md"))}
TEXT = {name: page.read_text(encoding="utf-8") for name, page in PAGES.items()}
DECISIONS = [name for name in TEXT if name.startswith("decisions/")]
GENERATED = {"parameters.md"}
# These pages name what was measured at the time, and may name commands and parameters that are gone.
HISTORY = {"results.md", *DECISIONS}
WRITTEN = [name for name in TEXT if name not in GENERATED | HISTORY]
README_LINES, WORDS = 130, 24_000
BLOCK = re.compile(r"^```(\w+)( norun)?\n(.*?)^```", re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r"(?:^    .*\n(?:\n(?=    ))?)+", re.MULTILINE)  # the form of the README
INLINE = re.compile(r"`((?:stillroom|dvc|make|python -m) [^`]*)`")
SHELL = {"export", "for", "done", "git", ".venv/bin/pip"}  # commands that are checked by running them only
REPLACED = {"student", "sft", "settings", "reward", "corpus_weights", "student_fraction", "model"}


def blocks(page: str, kind: str, *, run: bool) -> list[str]:
    """Return the code blocks of a kind that are marked to be run, or those that are not."""
    return [text for language, mark, text in BLOCK.findall(TEXT[page]) if language == kind and run is not bool(mark)]


def indented(page: str) -> list[str]:
    """Return the indented blocks of a page."""
    return [textwrap.dedent(text) for text in INDENTED.findall(BLOCK.sub("", TEXT[page]))]


def lines(page: str) -> list[list[str]]:
    """Return every command of a page, as words."""
    command_blocks = [text for text in indented(page) if re.match(r"(stillroom|dvc|make|python) ", text)]
    text = "\n".join([*blocks(page, "sh", run=True), *blocks(page, "sh", run=False), *command_blocks])
    parts = [part for line in text.splitlines() for part in re.split(r" && ", line)]
    commands_of_page = [shlex.split(part, comments=True) for part in parts]
    return [words for words in commands_of_page if words]


@pytest.mark.parametrize("page", list(TEXT))
def test_links_lead_to_files(page: str) -> None:
    for target, anchor in re.findall(r"\]\((?!http)([^)#\s]*)(#[^)]*)?\)", TEXT[page]):
        path = PAGES[page].parent / target if target else PAGES[page]
        assert path.exists(), target
        assert not anchor or anchor[1:] in _anchors(path), anchor


def _anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


def test_the_index_names_every_page() -> None:
    pages = {name for name in TEXT if "/" not in name} - {"index.md", "README.md", "CONTRIBUTING.md"}
    assert set(re.findall(r"\]\((\S+\.md)\)", TEXT["index.md"])) == pages | {"decisions/index.md"}


def test_the_index_of_decisions_names_every_decision() -> None:
    linked = {f"decisions/{name}" for name in re.findall(r"\]\((\S+\.md)\)", TEXT["decisions/index.md"])}
    assert linked == set(DECISIONS) - {"decisions/index.md"}


def test_the_documentation_is_short() -> None:
    """The words of docs/ and of the README count, those of the generated list of parameters too."""
    assert len(TEXT["README.md"].splitlines()) <= README_LINES
    assert sum(len(text.split()) for name, text in TEXT.items() if name != "CONTRIBUTING.md") < WORDS


@pytest.mark.parametrize("page", WRITTEN)
def test_commands_are_those_that_exist(page: str) -> None:
    """Parse the commands of blocks and of the text with their options; a later test runs the blocks marked `sh`."""
    for words in [*lines(page), *(text.split() for text in INLINE.findall(TEXT[page]))]:
        if words[0] == "stillroom":
            _parse(commands, words[1:])
        elif words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE), words
        elif words[0] == "dvc":
            _parse_dvc(words[1:])
        elif words[0] == "python":
            code = (ROOT / (words[2].replace(".", "/") + ".py")).read_text(encoding="utf-8")
            assert all(f'"{word}"' in code for word in words if word.startswith("--")), words
        else:
            assert words[0] in SHELL, words


def _parse(command: click.Command, words: list[str]) -> None:
    if isinstance(command, click.Group) and words and words[0].islower():
        inner = command.get_command(click.Context(command), words[0])
        assert inner is not None, words
        return _parse(inner, words[1:])
    options = {name for parameter in command.params for name in parameter.opts} | {"--help"}
    used = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert used <= options, f"{command.name}: no {used - options}"
    return None


def _parse_dvc(words: list[str]) -> None:
    parser = get_main_parser()
    if len(words) > 1:
        parser.parse_args(words)
    else:
        (inner,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
        assert words[0] in inner.choices


@pytest.mark.parametrize("page", WRITTEN)
def test_parameters_that_are_named_exist(page: str) -> None:
    for name in set(re.findall(r"`([a-z_]+(?:\.[a-z_0-9]+)+)(?:: [^`]*)?`", TEXT[page])):
        section, *keys = name.split(".")
        if section not in PARAMS or keys[-1] in ("yaml", "md", "json"):
            continue  # a file or a module
        value: Any = PARAMS[section]
        for key in keys:
            assert isinstance(value, dict), name
            assert key in value, name
            value = value[key]


def _yaml(page: str) -> list[str]:
    yaml_blocks = [text for text in indented(page) if re.match(r"\w+:( |$)", text, re.MULTILINE)]
    return [*blocks(page, "yaml", run=True), *yaml_blocks]


@pytest.mark.parametrize(("page", "text"), [(page, text) for page in WRITTEN for text in _yaml(page)])
def test_yaml_is_valid_as_a_part_of_params_yaml(page: str, text: str, tmp_path: Path) -> None:
    document = _merged(read_yaml(ROOT / "params.yaml"), YAML(typ="safe", pure=True).load(text))
    YAML(typ="safe").dump(document, tmp_path / "params.yaml")
    check_params(tmp_path / "params.yaml")


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    inner = {
        key: _merged(below[key], value)
        for key, value in above.items()
        if key not in REPLACED and isinstance(value, dict) and isinstance(below.get(key), dict)
    }
    return {**below, **above, **inner}


def test_there_is_a_query_for_each_view() -> None:
    assert re.findall(r"^\|`(\w+)`\|.*`select ", TEXT["commands.md"], re.MULTILINE) == list(VIEWS)


@pytest.mark.parametrize(
    "sql", [sql for page in WRITTEN for sql in re.findall(r"[`\"](select [^`\"]*)[`\"]", TEXT[page])]
)
def test_queries_run(tmp_path: Path, sql: str) -> None:
    query(connect(tmp_path / "work", tmp_path / "logs", tmp_path / "store"), sql)


def _sequence(completion: list[int], generator: np.random.Generator) -> ScoredSequence:
    """Return a sequence with one to eight random top tokens per position."""
    counts = generator.integers(1, 9, len(completion))
    ids = np.concatenate([generator.choice(300, count, replace=False) for count in counts]).astype(np.int32)
    logp = np.log(generator.uniform(1e-5, 0.9, len(ids)))
    scores = top_only(ids, logp, counts, tail=0.1, token_logp=-1.0)
    return ScoredSequence(rollout=rollout(str(completion), completion, source="dataset", finished=True), scores=scores)


def test_the_reader_in_the_documentation_reads_a_segment(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    sequences = [_sequence(list(range(length)), generator) for length in (5, 1, 12)]
    write_segment(tmp_path / "segment", sequences, header(300), generator.permutation(300))
    namespace: dict[str, Any] = {}
    (code,) = re.findall(r"```python\n(.*?)```", TEXT["store.md"], re.DOTALL)
    exec(code, namespace)
    segment = Segment.open(tmp_path / "segment")
    for row, expected in enumerate(segment.read(0, 3)):
        read = namespace["read_top_tokens"](tmp_path / "segment", row)
        assert [len(ids) for ids, _ in read] == expected.top.counts.tolist()
        assert np.concatenate([ids for ids, _ in read]).tolist() == expected.top.ids.tolist()
        assert np.log(np.concatenate([p for _, p in read])) == pytest.approx(expected.top.logp, abs=1e-5)


ENTRIES = [text for _, text in re.findall(r"^\| ?(`+)(.+?)\1 ?\|", TEXT["troubleshooting.md"], re.MULTILINE)]
ELSEWHERE = {  # messages that no UserError contains, and the file or program that prints them
    "expected the packages of requirements/lock.txt": "stages/__init__.py",
    "warning: ... cases lose their earlier messages": "pipeline/tasks/templates.py",
    "warning: ... sampled completions were cut at": "pipeline/evaluation/completions.py",
    "warning: ... is within its standard error": "pipeline/report/significance.py",
    "warning: ... is worse than before training": "pipeline/evaluation/verdict.py",
    "warning: ... is worse in part": "pipeline/evaluation/verdict.py",
    "warning: ...: no step, because ... was worse": "stages/train.py",
    "warning: ...: the chance of an end token after an answer is": "stages/init.py",
    "warning: ...: ... of ... completions ended": "pipeline/rollout/sample.py",
    "warning: student ...: first tuned on data of teacher ...": "pipeline/lineage/lineage.py",
    "Unable to acquire lock": "dvc",
}


def _covers(entry: str, message: str) -> bool:
    """Return whether an entry of the page covers a message; three dots in the entry stand for any text."""
    general = entry.startswith("expected ...,") and not message.startswith("expected ...")
    return not general and re.search(".*".join(map(re.escape, entry.split("..."))), message) is not None


@pytest.mark.parametrize("message", messages())
def test_every_message_is_in_the_troubleshooting(message: str) -> None:
    assert any(_covers(entry, message) for entry in ENTRIES), f"{messages()[message]}: {message}"


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_message_in_the_troubleshooting_is_raised(entry: str) -> None:
    if entry not in ELSEWHERE:
        assert any(_covers(entry, message) for message in messages())
    elif ELSEWHERE[entry] != "dvc":
        words = max(entry.removeprefix("warning: ").split("..."), key=len)
        assert words in (ROOT / ELSEWHERE[entry]).read_text(encoding="utf-8")


def test_a_message_without_an_entry_is_detected() -> None:
    unknown = "expected a moon, got a cheese; fix params.yaml"
    assert not any(_covers(entry, unknown) for entry in ENTRIES)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in TEXT if blocks(page, "sh", run=True)])
def test_the_commands_of_a_page_run(project: Project, page: str) -> None:
    """Run the commands in their order, in a small project that has been run."""
    committed(project)
    script = "\n".join(['stillroom() { python -m stages.cli "$@"; }', *blocks(page, "sh", run=True)])
    done = subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=project.path,
        env=project.env,
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout + done.stderr
