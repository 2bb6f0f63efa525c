"""Whether two tokenizers go together, and what the student takes from its teacher."""

from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import decoders

from pipeline.models.tokenizer import eos_ids, render, require_same_tokenizer, tokenizer_fingerprint
from pipeline.runtime.errors import ModelError

TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}<end>{% endfor %}{{ eos_token }}"
OTHER = "{% for m in messages %}{{ m['content'] }}<other>{% endfor %}"

Maker = Callable[..., Any]


@pytest.mark.parametrize(
    "student",
    [
        {},
        {"template": "{{ messages }}"},
        {"eos_token": "<end>"},
        {"eos_token": None, "pad_token": None},
        {"pad_token": "<extra>"},
        {"pad_token": "[PAD]"},
        {"extra": "<reserved>"},
    ],
)
def test_a_base_student_gets_the_template_and_the_ends_of_its_teacher(
    student: dict[str, Any], make_tokenizer: Maker
) -> None:
    teacher, base = make_tokenizer(template=TEMPLATE), make_tokenizer(**student)
    require_same_tokenizer(teacher, base, ("big", "small"))
    assert eos_ids(base) == eos_ids(teacher) == [258, 257]
    chat = [{"role": "user", "content": "Hi"}]
    assert render(base, chat) == render(teacher, chat)


def test_a_student_may_know_more_tokens_than_its_teacher_and_less(make_tokenizer: Maker) -> None:
    more = make_tokenizer()
    more.add_tokens(["hello", "world"])
    require_same_tokenizer(make_tokenizer(), more, ("big", "small"))
    require_same_tokenizer(more, make_tokenizer(), ("big", "small"))


def test_an_ordinary_token_of_another_meaning_is_refused_by_id_and_both_meanings(make_tokenizer: Maker) -> None:
    with pytest.raises(ModelError) as caught:
        require_same_tokenizer(make_tokenizer(), make_tokenizer(reverse=True), ("big", "small"))
    assert str(caught.value) == (
        "small: expected the tokenizer of the teacher big, got 256 ids that mean something else, such as 0 "
        "('!' there, 'Ń' here), 1 ('\"' there, 'ł' here), 2 ('#' there, 'Ł' here); "
        "take a student with the teacher's vocabulary, or `model: teacher` with fewer layers"
    )
    teacher, student = make_tokenizer(), make_tokenizer()
    teacher.add_tokens(["hello"])
    student.add_tokens(["world"])
    with pytest.raises(ModelError, match=r"got 1 ids that .* 260 \('hello' there, 'world' here\)"):
        require_same_tokenizer(teacher, student, ("big", "small"))


def test_a_control_token_of_another_name_is_refused_where_both_write_it(make_tokenizer: Maker) -> None:
    teacher = make_tokenizer(template=TEMPLATE.replace("<end>", "<extra>"), eos_token="<extra>")
    require_same_tokenizer(teacher, make_tokenizer(template=TEMPLATE, extra="<reserved>"), ("big", "small"))
    writes = make_tokenizer(template=OTHER, extra="<other>")
    with pytest.raises(ModelError, match="259 \\('<extra>' there, '<other>' here\\)"):
        require_same_tokenizer(teacher, writes, ("big", "small"))


def test_equal_names_that_decode_to_other_bytes_are_refused(make_tokenizer: Maker) -> None:
    student = make_tokenizer()
    student.backend_tokenizer.decoder = decoders.Fuse()  # the marks of bytes are taken for letters
    assert tokenizer_fingerprint(student) == tokenizer_fingerprint(make_tokenizer())
    with pytest.raises(ModelError, match="ids that mean something else"):
        require_same_tokenizer(make_tokenizer(), student, ("big", "small"))
