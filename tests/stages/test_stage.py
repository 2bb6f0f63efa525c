"""The decorator that makes a command of a stage's function."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from pipeline.rollout.collect import CorpusParams, RolloutParams
from pipeline.runtime.errors import ParameterError
from stages._stage import StageCommand, StageContext, Tracked, stage

PARAMS = """
seed: 3
corpus: {references: 1, generations: 2, samples_per_prompt: 4}
schedule: {max_staleness: 1}
student: {small: {layers: 2}}
"""


@pytest.fixture(autouse=True)
def _in_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(PARAMS, encoding="utf-8")


def make_command(function: Callable[..., None], cost_name: str | None = "{student}-test") -> StageCommand:
    """Return a stage with a plain section, one under another key, and one that depends on an option."""
    decorate = stage(
        cost_name,
        seed=int,
        corpus=CorpusParams,
        limit=("schedule.max_staleness", float | None),
        layers=("student.{student}.layers", int),
    )
    return decorate(function)


def test_a_stage_gets_its_sections_and_options_and_writes_its_cost() -> None:
    received: list[Any] = []

    def main(ctx: StageContext, p: Any, student: str) -> None:
        received.append((p.seed, p.corpus.generations, p.limit, p.layers, student, ctx.layout.params))
        ctx.cost["tokens"] = 5

    command = make_command(main)
    command.main(args=["--student", "small"], standalone_mode=False)
    command.run(student="small")
    assert received == [(3, 2, 1.0, 2, "small", Path("params.yaml"))] * 2
    assert json.loads(Path("work/costs/small-test.json").read_text(encoding="utf-8"))["tokens"] == 5
    assert command.help == __doc__
    assert command.tracked == {
        "seed",
        "corpus",
        "schedule.max_staleness",
        "student.{student}.layers",
    }


def test_a_stage_without_a_cost_writes_none() -> None:
    def main(ctx: StageContext, p: Any, student: str) -> None:
        assert ctx.cost == {}

    make_command(main, cost_name=None).run(student="small")
    assert not Path("work").exists()


def test_the_options_of_a_stage_are_the_parameters_of_its_function() -> None:
    received: list[Any] = []

    @stage(None)
    def main(ctx: StageContext, p: Any, round_id: str, first_step: int, out: Path) -> None:
        received.extend([round_id, first_step, out])

    main.main(args=["--round", "r1", "--first-step", "3", "--out", "work/x"], standalone_mode=False)
    assert received == ["r1", 3, Path("work/x")]
    with pytest.raises(click.MissingParameter, match="round_id"):
        main.main(args=["--first-step", "3", "--out", "work/x"], standalone_mode=False)


@pytest.mark.parametrize(
    ("before", "after", "student", "where"),
    [
        ("seed: 3", "seed: three", "small", "seed"),
        ("samples_per_prompt: 4", "samples: 4", "small", "corpus.samples"),
        ("seed: 3", "seed: 3", "large", "student.large"),
    ],
)
def test_a_mistake_in_a_section_is_named_before_the_stage_works(
    before: str, after: str, student: str, where: str
) -> None:
    Path("params.yaml").write_text(PARAMS.replace(before, after), encoding="utf-8")

    def main(ctx: StageContext, p: Any, student: str) -> None:
        raise AssertionError("the stage ran")

    with pytest.raises(ParameterError, match=f"^{where}: "):
        make_command(main).run(student=student)
    assert not Path("work").exists()


def test_a_warning_is_printed_and_left_for_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    def main(ctx: StageContext, p: Any, student: str) -> None:
        ctx.warn("few prompts")

    make_command(main).run(student="small")
    assert "warning: few prompts\n" in capsys.readouterr().out
    assert json.loads(Path("work/costs/small-test.json").read_text(encoding="utf-8"))["warnings"] == ["few prompts"]


def test_a_tracked_section_is_read_whole_and_lists_the_keys_that_matter() -> None:
    received: list[CorpusParams] = []

    def main(ctx: StageContext, p: Any) -> None:
        received.append(p.corpus)

    corpus = Tracked(key="corpus", kind=CorpusParams, untracked=("generations",))
    command = stage(None, corpus=corpus)(main)
    command.run()
    assert received == [CorpusParams(references=1, generations=2, samples_per_prompt=4)]
    assert command.tracked == {"corpus.references", "corpus.samples_per_prompt"}


def test_keys_of_a_mapping_in_a_tracked_section() -> None:
    rollout = Tracked(key="rollout", kind=RolloutParams, untracked=("sampling.record_max", "prompts"))
    keys = rollout.tracked_keys()
    assert {"rollout.batch_size", "rollout.sampling.top_p"} <= set(keys)
    assert not {"rollout", "rollout.sampling", "rollout.sampling.record_max", "rollout.prompts"} & set(keys)
