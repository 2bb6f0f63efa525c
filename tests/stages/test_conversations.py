"""Conversations from their file to scores and fine-tuning: only what the assistant wrote is scored and trained on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.files import read_prompts, read_rollouts
from pipeline.models.tokenizer import decode, load_tokenizer
from pipeline.runtime.layout import LAYOUT
from pipeline.runtime.yaml_files import write_yaml
from pipeline.store.segment_reader import Segment
from pipeline.training.log import read_log
from stages import generate, prepare, score, sft, teacher
from tests.project import PARAMS

SETTINGS: dict[str, Any] = dict.fromkeys(("config", "revision", "instruction_column", "input_column", "output_column"))
SETTINGS |= {"data": "data", "train_split": "train", "heldout_split": "test", "messages_column": "messages"}


def conversation(number: int) -> dict[str, Any]:
    """Return a conversation of two answers, with a tool's observation between them."""
    turns = [
        *[("system", "Be brief."), ("user", f"Twice {number}?"), ("assistant", f"It is {2 * number}.")],
        *[("user", "Look it up."), ("assistant", "I ask."), ("tool", f"{2 * number}"), ("assistant", "It is so.")],
    ]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


@pytest.fixture
def _project(make_model_dir: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in a project of conversations in which prompts are made and scored."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STILLROOM_STORE", str(tmp_path / "store"))
    make_model_dir(tmp_path / "models/teacher", layers=2, seed=1)
    (tmp_path / "data").mkdir()
    for split, numbers in (("train", range(4)), ("test", range(10, 12))):
        lines = "".join(json.dumps(conversation(number)) + "\n" for number in numbers)
        (tmp_path / f"data/{split}.jsonl").write_text(lines, encoding="utf-8")
    template = {"text": None, "chat": True, "system": None, "variables": {}}
    task = PARAMS["task"] | {"name": "instructions", "train": 4, "heldout": 2, "max_prompt_tokens": 200}
    task |= {"template": template, "settings": SETTINGS | {"train_on": "all_assistant_turns"}}
    tuned = {"references": None, "steps": 1, "batch_size": 4, "micro_batch_size": 2, "optimizer": PARAMS["optimizer"]}
    changes = {"task": task, "corpus": {"references": None, "generations": 0, "samples_per_prompt": 1}}
    write_yaml(tmp_path / "params.yaml", PARAMS | changes | {"sft": {"teacher": tuned}}, comment="Of a test.")


@pytest.mark.usefixtures("_project")
def test_references_are_scored_and_trained_at_every_turn_of_the_assistant() -> None:
    teacher.main.run(out=Path("work/teacher"))
    prepare.main.run(teacher=Path("work/teacher"))
    generate.main.run()
    segment = LAYOUT.corpus.segment
    score.main.run(rollouts=LAYOUT.corpus.rollouts, out=segment, name="corpus-score")

    tokenizer, rollouts = load_tokenizer(LAYOUT.teacher), read_rollouts(LAYOUT.corpus.rollouts)
    assert len(rollouts) == 4
    scored = {decode(tokenizer, rollout.scored_ids) for rollout in rollouts}
    assert scored == {f"It is {2 * number}.I ask.It is so." for number in range(4)}
    for rollout in rollouts:
        assert "Look it up." in decode(tokenizer, rollout.completion_ids)
        assert decode(tokenizer, rollout.prompt_ids).endswith("?[assistant]")
    assert Segment.open(segment).manifest.positions == sum(rollout.positions for rollout in rollouts)
    # Held-out conversations have masks too; nobody trains on them.
    assert all(prompt.assistant_mask for prompt in read_prompts(LAYOUT.prompts, "heldout"))

    sft.main.run(name="teacher", model=LAYOUT.teacher, out=Path("tuned"), log=Path("tuned.csv"))
    (row,) = read_log(Path("tuned.csv"))
    assert row["tokens"] == sum(rollout.positions for rollout in rollouts)
    assert row["read_tokens"] > row["tokens"]
