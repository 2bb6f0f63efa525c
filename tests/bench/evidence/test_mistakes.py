"""bench.evidence.mistakes: a prompt ends with a mistake, and its reference finishes the answer correctly."""

import re
import shutil
from pathlib import Path

import pytest

from bench.evidence.mistakes import add_mistakes, begin_wrongly
from pipeline.core.types import Prompt
from pipeline.models.tokenizer import Tokenizer, byte_tokenizer, decode, render
from pipeline.runtime.yaml_files import read_yaml

PRESET = Path(__file__).parents[3] / "presets/arithmetic-tiny.yaml"
ANSWER = "12 + 5 = 17\n17 - 8 = 9\n#### 9"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return byte_tokenizer(read_yaml(PRESET)["teacher"]["model"]["tokenizer"])


@pytest.fixture
def prompt(tokenizer: Tokenizer) -> Prompt:
    text, ids = render(tokenizer, "Ann has 12 pens. She buys 5. She loses 8. How many pens does Ann have?\n")
    return Prompt(
        prompt_id="ann", split="train", prompt_ids=ids, reference_ids=[], prompt_text=text, references=[ANSWER]
    )


def test_a_wrong_beginning_goes_on_with_the_rest_of_the_right_answer(tokenizer: Tokenizer, prompt: Prompt) -> None:
    seen = set()
    for number in range(60):
        begun = begin_wrongly(prompt, tokenizer, 20, number)
        prefix = begun.prompt_text.removeprefix(prompt.prompt_text)
        rest = decode(tokenizer, begun.reference_ids)
        assert not ANSWER.startswith(prefix)
        assert ANSWER.endswith(rest)
        assert rest.startswith("\n")
        assert (prefix + rest).count("\n") == 2
        assert decode(tokenizer, begun.prompt_ids) == begun.prompt_text
        assert begun.reference_ids[-1] == tokenizer.eos_token_id
        assert all(int(value) > 0 for value in re.findall(r"-?\d+", prefix.replace(" - ", " ")))
        seen.add(prefix)
    assert {prefix.count("\n") for prefix in seen} == {0, 1}
    assert len(seen) > 30


def test_equal_numbers_give_equal_mistakes(tokenizer: Tokenizer, prompt: Prompt) -> None:
    assert begin_wrongly(prompt, tokenizer, 20, 3) == begin_wrongly(prompt, tokenizer, 20, 3)


def test_prompts_stay_and_each_gets_its_mistakes(tokenizer: Tokenizer, prompt: Prompt, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    shutil.copy(PRESET, tmp_path / "params.yaml")
    prompts = add_mistakes(tmp_path, [prompt], tmp_path, 2)
    assert prompts[0] == prompt
    assert [begun.prompt_id for begun in prompts[1:]] == ["ann/mistake-0", "ann/mistake-1"]
    assert add_mistakes(tmp_path, [prompt], tmp_path, 0) == [prompt]
