"""What a model tells beside its weights: licence and lineage, or nothing, and never a failure."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.checkpoints.provenance import _gguf_license, earlier_lineage, source_of
from pipeline.core.hashing import model_fingerprint
from pipeline.lineage.lineage import write_lineage
from tests.factories import lineage, lineage_round, lora_params, make_lora_student


def test_a_directory_tells_its_licence_and_lineage(make_model_dir: Callable[..., Path], tmp_path: Path) -> None:
    model = make_model_dir(tmp_path / "model")
    assert source_of(str(model), None, model, where="teacher.model").license is None
    (model / "README.md").write_text("---\ntags:\n- a\nlicense: apache-2.0\n---\ntext\n", encoding="utf-8")
    source = source_of(str(model), None, model, where="teacher.model")
    assert (source.license, source.hub, source.fingerprint) == ("apache-2.0", False, model_fingerprint(model))
    assert earlier_lineage(str(model), None, where="x") is None
    write_lineage(model, lineage(lineage_round()))
    assert earlier_lineage(str(model), None, where="x") == lineage(lineage_round())
    assert model_fingerprint(model) == source.fingerprint  # neither file makes it another model


@pytest.mark.parametrize(
    "readme",
    [
        "",
        "no front matter",
        "---\nlicense: [mit, gpl]\n---\n",
        "---\n- a\n---\n",
        "---\n{\n---\n",
        "---\n---\nlicense: x\n",
    ],
)
def test_a_readme_of_another_kind_is_no_mistake(
    make_model_dir: Callable[..., Path], tmp_path: Path, readme: str
) -> None:
    model = make_model_dir(tmp_path / "model")
    (model / "README.md").write_text(readme, encoding="utf-8")
    assert source_of(str(model), None, model, where="x").license is None


def test_a_hub_name_that_cannot_be_reached_tells_nothing(
    teacher_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    source = source_of("nobody/nothing", "main", teacher_dir, where="x")
    assert (source.hub, source.license, source.revision) == (True, None, "main")
    assert earlier_lineage("nobody/nothing", None, where="x") is None


def test_the_class_that_loads_a_model_is_recorded(
    make_t5_dir: Callable[..., Path], student_dir: Path, tmp_path: Path
) -> None:
    t5 = make_t5_dir(tmp_path / "t5")
    assert source_of(str(t5), None, t5, where="x").auto_class == "AutoModelForSeq2SeqLM"
    adapter = make_lora_student(tmp_path, student_dir, lora_params())
    source = source_of(str(student_dir), None, adapter, where="x", base=tmp_path / "base")
    assert source.auto_class == "AutoModelForCausalLM"
    assert source.fingerprint == model_fingerprint(adapter)


def test_the_licence_of_a_gguf_file(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF...general.license" + struct.pack("<IQ", 8, 3) + b"mitgeneral.languages")
    assert _gguf_license(file) == "mit"
    for other in (b"GGUF", b"general.license", b"general.license" + struct.pack("<IQ", 4, 3) + b"mit"):
        file.write_bytes(other)
        assert _gguf_license(file) is None
