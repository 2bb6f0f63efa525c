"""pipeline.models.ending: a model that does not end its answers is recognised before it samples a completion."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.models import forward
from pipeline.models.ending import RARE, end_chance
from pipeline.models.language_model import load_model
from pipeline.models.tokenizer import eos_ids, load_tokenizer
from pipeline.runtime.layout import LAYOUT
from pipeline.runtime.yaml_files import read_yaml, write_yaml
from pipeline.workspace.students import write_students
from stages import init, teacher
from tests.conftest import CHAT_TEMPLATE
from tests.factories import with_weight

TEMPLATE = "{% for message in messages %}{{ message.content }}\n{% endfor %}"
MakeEven = Callable[..., Path]


@pytest.fixture
def make_even(make_model_dir: Callable[..., Path], tmp_path: Path) -> MakeEven:
    """Make a model that has the same state after every token, and prefers its end token by a factor, or no token."""

    def make(preference: float, chat_template: str | None = TEMPLATE) -> Path:
        plain = make_model_dir(tmp_path / "plain", tie_word_embeddings=False)
        name = "model.embed_tokens.weight"
        same = with_weight(plain, tmp_path / "same", name, lambda w_VD: w_VD.copy_(w_VD[:1].clone()))
        with torch.no_grad():
            row_D = preference * forward.plain_states(load_model(same), [1, 2], [3])[-1]
        tokenizer = load_tokenizer(plain)
        tokenizer.chat_template = chat_template
        ends = eos_ids(tokenizer)

        def prefer(weight_VD: torch.Tensor) -> None:
            weight_VD.zero_()
            weight_VD[ends] = row_D

        return with_weight(same, tmp_path / "even", "lm_head.weight", prefer)

    return make


@pytest.mark.parametrize("chat_template", [None, TEMPLATE])
@pytest.mark.parametrize(("preference", "expected"), [(0.0, 1 / 260), (1.0, 1.0), (-1.0, 0.0)])
def test_the_chance_is_that_of_an_end_token(
    make_even: MakeEven, chat_template: str | None, preference: float, expected: float
) -> None:
    folder = make_even(preference, chat_template)
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = chat_template
    chance = end_chance(load_model(folder), tokenizer)
    assert chance == pytest.approx(expected, abs=1e-6)
    assert chance is not None
    assert (chance < RARE) == (preference < 0)


def test_what_cannot_be_tried_is_not_judged(make_even: MakeEven) -> None:
    folder = make_even(0.0)
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    tokenizer.chat_template = "{{ raise_exception('tools only') }}"
    assert end_chance(model, tokenizer) is None
    tokenizer.chat_template = None
    model.config.max_position_embeddings = 20
    assert end_chance(model, tokenizer) is None


@pytest.mark.parametrize("preference", [0.0, -1.0])
def test_the_stage_warns_before_the_first_round(small_job: Path, make_even: MakeEven, preference: float) -> None:
    document = read_yaml(small_job / "params.yaml")
    document["teacher"]["model"] = str(make_even(preference, CHAT_TEMPLATE))
    document["student"]["small"]["layers"] = [0, 1]
    write_yaml(small_job / "params.yaml", document, comment="Of a test.")
    teacher.main.run(out=LAYOUT.teacher)
    write_students(LAYOUT)
    init.main.run(student="small", to="init")
    cost = json.loads((small_job / "work/costs/small-init.json").read_text(encoding="utf-8"))
    warnings = cost.get("warnings", [])
    expected = ["student.small: the chance of an end token after an answer is "] if preference < 0 else []
    assert [warning[: len(expected[0])] for warning in warnings] == expected
