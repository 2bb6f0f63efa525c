"""pipeline.lineage.lineage: a written lineage is read unchanged, and another teacher is noticed across runs."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.lineage.lineage import (
    FILE,
    first_teacher,
    kept_layers,
    last_warning,
    read_lineage,
    teacher_warning,
    write_lineage,
)
from pipeline.runtime.errors import DataError
from tests.factories import lineage, lineage_round, model_source


def test_what_was_written_is_read(tmp_path: Path) -> None:
    earlier = lineage(lineage_round(), config={"hidden_size": 8}, layers=None)
    made = lineage(lineage_round(), lineage_round("r2", first_step=4), earlier=earlier)
    write_lineage(tmp_path, made)
    assert read_lineage(tmp_path) == made
    before = (tmp_path / FILE).read_bytes()
    write_lineage(tmp_path, made)
    assert (tmp_path / FILE).read_bytes() == before


def test_the_layers_of_an_encoder_and_a_decoder_are_kept_apart(tmp_path: Path) -> None:
    made = lineage(lineage_round(), layers={"encoder": (0, 2), "decoder": (1,)})
    write_lineage(tmp_path, made)
    assert read_lineage(tmp_path) == made
    assert kept_layers(made) == "encoder 0, 2, decoder 1"
    assert kept_layers(lineage(layers=(0, 3))) == "0, 3"
    assert kept_layers(lineage(layers=None)) == ""


def test_a_model_from_elsewhere_has_none(tmp_path: Path) -> None:
    assert read_lineage(tmp_path) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "stillroom.lineage/0"}, "expected stillroom.lineage/2, got stillroom.lineage/0"),
        ({"rounds": [{"id": "r1"}]}, "lineage.rounds"),
        ({"teacher": None}, "lineage.teacher"),
        ({"more": 1}, "lineage.more"),
    ],
)
def test_a_file_of_another_shape_is_a_mistake(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write_lineage(tmp_path, lineage(lineage_round()))
    (tmp_path / FILE).write_text(
        json.dumps(json.loads((tmp_path / FILE).read_text(encoding="utf-8")) | change), encoding="utf-8"
    )
    with pytest.raises(DataError, match=message):
        read_lineage(tmp_path)


def test_the_same_teacher_gives_no_warning() -> None:
    assert teacher_warning(lineage(), "teacher-print") is None  # never tuned
    assert teacher_warning(lineage(lineage_round()), "teacher-print") is None
    assert last_warning(lineage()) is None


def test_another_teacher_in_a_later_round_gives_a_warning() -> None:
    changed = lineage(lineage_round(), lineage_round("r2", teacher="strange-print"))
    warning = last_warning(changed)
    assert warning is not None
    assert "first tuned on data of teacher teacher (teacher-prin), now another (strange-prin) scores" in warning


def test_the_first_teacher_is_known_across_runs() -> None:
    old = lineage(lineage_round(teacher="old-print"), teacher=model_source("old"))
    new = lineage(earlier=lineage(earlier=old))
    assert first_teacher(new) == ("old", "old-print")
    warning = teacher_warning(new, "teacher-print")
    assert warning is not None
    assert "teacher old (old-print), now teacher (teacher-prin) scores" in warning
    assert "\n" not in warning
    assert teacher_warning(new, "old-print") is None
