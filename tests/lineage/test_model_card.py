"""pipeline.lineage.model_card: front matter that the hub accepts, and the same bytes for the same lineage."""

from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

from pipeline.lineage.model_card import model_card
from tests.factories import lineage, lineage_round, model_source

HUB = model_source("org/base", hub=True, license="mit")


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
    assert "`my/model` cut to layers 0, 2" in card
    assert "my/data" in card
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
    card = model_card(lineage(lineage_round(), start=HUB), {"exact_match": 0.25})
    (result,) = ModelCard(card).data.eval_results
    assert (result.metric_type, result.metric_value) == ("exact_match", 0.25)
    assert "| exact_match | 0.2500 |" in card


def test_equal_lineages_give_equal_cards() -> None:
    assert model_card(lineage(lineage_round())) == model_card(lineage(lineage_round()))
    assert "4 optimizer steps in 1 rounds; 1,234 tokens" in model_card(lineage(lineage_round()))


def test_only_a_trained_student_has_a_card() -> None:
    with pytest.raises(AssertionError):
        model_card(lineage())
