"""A base student of an instruct teacher, through the stages: every directory records the ends of the teacher."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.end_to_end.job import initialise_student, make_corpus, merged, run_round, run_stage
from pipeline.core.files import read_prompts, read_rollouts
from pipeline.models.tokenizer import eos_ids, load_tokenizer
from pipeline.runtime.layout import LAYOUT, round_list
from pipeline.runtime.yaml_files import read_yaml, write_yaml
from pipeline.workspace.schedule import ROUNDS, follow_params
from pipeline.workspace.students import write_students
from stages.cli.main import merge
from tests.project import PARAMS, write_sums

LORA = {"r": 2, "lora_alpha": 4, "lora_dropout": 0.0, "use_rslora": False, "target_modules": "all-linear"}
BASE = {"model": "models/base", "layers": None}
JOB: dict[str, Any] = {
    "schedule": {"total_steps": 2, "refresh_every": 2},
    "students": ["small", "adapter"],
    "student": {"small": BASE, "adapter": BASE | {"lora": LORA | {"base_dtype": "float32"}}},
}


@pytest.fixture
def _pair(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_model_dir: Callable[..., Path],
    make_tokenizer: Callable[..., Any],
) -> None:
    """A teacher with a template and a further end, and a base model that has neither and names another eos."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STILLROOM_STORE", "store")
    teacher = make_model_dir(Path("models/teacher"), layers=2, seed=1)
    (teacher / "generation_config.json").write_text('{"eos_token_id": [257, 259]}', encoding="utf-8")
    base = make_model_dir(Path("models/base"), layers=1, seed=2, vocab=270)
    make_tokenizer(eos_token="<extra>", pad_token="[PAD]").save_pretrained(base)
    (base / "chat_template.jinja").unlink()
    write_sums(tmp_path)
    write_yaml(Path("params.yaml"), merged(PARAMS, JOB), comment="Of a test.")
    follow_params()
    write_students(LAYOUT)


@pytest.mark.usefixtures("_pair")
@pytest.mark.filterwarnings("default")
def test_every_directory_has_the_ends_of_the_teacher() -> None:
    run_stage("teacher", out="work/teacher")
    run_stage("prepare", teacher="work/teacher")
    make_corpus()
    (round_,) = [item for item in round_list(read_yaml(ROUNDS)) if item["id"] == "r1"]
    for student in ("small", "adapter"):
        initialise_student(student)
        run_round(student, round_)
    merge.main(args=["work/adapter/r1/model", "merged"], standalone_mode=False)
    directories = [LAYOUT.teacher, LAYOUT.base("adapter"), Path("merged")]
    directories += [LAYOUT.round(student, at).model for student in ("small", "adapter") for at in ("init", "r1")]
    for directory in directories:
        recorded = json.loads((directory / "generation_config.json").read_text(encoding="utf-8"))
        assert recorded["eos_token_id"] == [258, 257, 259], directory
        assert eos_ids(load_tokenizer(directory)) == [258, 257, 259]
        assert load_tokenizer(directory).chat_template == load_tokenizer(LAYOUT.teacher).chat_template
    assert {prompt.reference_ids[-1] for prompt in read_prompts(LAYOUT.prompts, "train")} == {258}
    rollouts = read_rollouts(LAYOUT.round("small", "r1").rollouts) + read_rollouts(LAYOUT.corpus.rollouts)
    for rollout in rollouts:
        assert rollout.finished == (rollout.completion_ids[-1] in (257, 258, 259))
        assert not {257, 258, 259} & set(rollout.completion_ids[:-1])
