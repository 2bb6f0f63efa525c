"""A small T5 made here: `sft` tunes it on made-up sentences until it translates, and a smaller one learns from it.

Every sentence has a size, a colour, an animal and a verb, whose order follows from the words. Where it does not (four
of ten words in any order), 600 steps of 32 left most words right and their order wrong.
"""

import itertools
import random
from pathlib import Path
from typing import Any

import pytest

from bench.end_to_end.job import make_corpus, merged, run_round, run_stage
from pipeline.runtime.files import read_json
from pipeline.runtime.layout import LAYOUT, round_list
from pipeline.runtime.yaml_files import read_yaml, write_yaml
from pipeline.workspace.schedule import ROUNDS, follow_params
from pipeline.workspace.students import write_students
from tests.project import PARAMS

ENGLISH = (
    "big small old new wet dry",
    "red green blue black white pink",
    "dog cat cow pig duck hen",
    "runs eats sings",
)
GERMAN = (
    "dick klein alt neu nass matt",
    "rot lila blau braun bunt rosa",
    "Hund Kater Ochse Eber Erpel Hahn",
    "rennt isst singt",
)
OPTIMIZER = PARAMS["optimizer"] | {
    "learning_rate": 5e-3,
    "lr_scheduler_type": "linear",
    "warmup_steps": 10,
    "save_steps": 100,
}


def tuning(steps: int) -> dict[str, Any]:
    return {
        "references": None,
        "steps": steps,
        "batch_size": 32,
        "micro_batch_size": 32,
        "optimizer": OPTIMIZER | {"decay_steps": steps},
    }


SETTING: dict[str, Any] = {
    "schedule": {"total_steps": 40, "refresh_every": 10},
    "task": {
        "name": "translation",
        "train": 400,
        "heldout": 50,
        "template": {"text": "translate English to German: a {source}", "chat": False},
    },
    "teacher": {
        "model": {
            "config": {
                "model_type": "t5",
                "d_model": 64,
                "d_kv": 32,
                "d_ff": 128,
                "num_layers": 2,
                "num_heads": 2,
                "dropout_rate": 0.0,
            },
            "tokenizer": [
                "translate English to German: a",
                "ein",
                *(f" {word}" for word in " ".join(ENGLISH + GERMAN).split()),
            ],
            "seed": 0,
        }
    },
    "student": {"small": {"layers": None, "config": {"num_layers": 1, "num_decoder_layers": 1}}},
    "sft": {"teacher": tuning(120), "small": tuning(20)},
    "corpus": {"references": 100, "generations": 0, "samples_per_prompt": 1},
    "rollout": {"prompts": 160, "samples_per_prompt": 1, "batch_size": 160},
    "scoring": {"batch_size": 50, "flush_every": 1000, "truncation": {"max_entries": 64}},
    "objective": {"tail_estimator": "auto"},
    "batches": {"batch_size": 32, "micro_batch_size": 32, "shuffle_window": 1000},
    "optimizer": OPTIMIZER | {"decay_steps": 40},
    "evaluation": {"prompts": 50, "batch_size": 50, "max_new_tokens": 8},
}


@pytest.fixture
def rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Of a project where we stand: sentences in files as Multi30k's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STILLROOM_STORE", "store")
    pairs = [list(zip(*(words.split() for words in both), strict=True)) for both in zip(ENGLISH, GERMAN, strict=True)]
    sentences = random.Random(0).sample(list(itertools.product(*pairs)), 450)
    Path("data").mkdir()
    for split, part in (("train", sentences[:400]), ("val", sentences[400:])):
        english = [" ".join(word for word, _ in sentence) for sentence in part]
        german = [" ".join(["ein", *(word for _, word in sentence)]) for sentence in part]
        Path(f"data/{split}.en").write_text("\n".join(english) + "\n", encoding="utf-8")
        Path(f"data/{split}.de").write_text("\n".join(german) + "\n", encoding="utf-8")
    settings = {"data": "data", "config": None, "revision": None, "train_split": "train", "heldout_split": "val"}
    document = merged(PARAMS, SETTING)
    document["task"]["settings"] = settings | {"source_column": "en", "target_column": "de"}
    document["teacher"]["model"] = SETTING["teacher"]["model"]
    write_yaml(Path("params.yaml"), document, comment="Of a test.")
    follow_params()
    write_students(LAYOUT)
    return read_yaml(ROUNDS)


def measured(name: str, model: str) -> dict[str, float]:
    run_stage("evaluate", name=name, model=model)
    return read_json(Path(f"work/evaluations/{name}.json"))["metrics"]  # type: ignore[no-any-return]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_t5_from_nothing_learns_to_translate_and_teaches(rounds: dict[str, Any]) -> None:
    run_stage("teacher", out=rounds["teacher_dir"])
    run_stage("prepare", teacher=rounds["teacher_dir"])
    run_stage("sft", name="teacher", model=rounds["teacher_dir"], out="work/teacher", log="logs/teacher/sft/train.csv")
    teacher = measured("teacher", "work/teacher")
    make_corpus()
    run_stage("init", student="small", to=rounds["starts"]["small"])
    where = rounds["tuned"]["small"]
    run_stage("sft", name="small", model=where["base"], out=where["out"], log="logs/small/sft/train.csv")
    before = measured("small-init", "work/small/init/model")
    for item in round_list(rounds):
        run_round("small", item)
    after = measured(f"small-{item['id']}", f"work/small/{item['id']}/model")
    assert teacher["bleu"] > 80
    assert after["bleu"] > before["bleu"] + 10
    assert after["forward_kl"] < 0.7 * before["forward_kl"]
