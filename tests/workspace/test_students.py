"""pipeline.workspace.students: what differs for a student is enough, and only its own files change with it."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.hashing import tree_digest
from pipeline.runtime.errors import ParameterError
from pipeline.runtime.files import read_json
from pipeline.runtime.layout import Layout
from pipeline.runtime.yaml_files import edit_yaml, read_yaml
from pipeline.workspace.students import complete_student, write_students
from pipeline.workspace.validation import check_params

ROOT = Path(__file__).parents[2]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return Layout(tmp_path)


def change(layout: Layout, *keys: str, to: Any) -> None:
    layout.params.write_text(edit_yaml(layout.params, {keys: to}), encoding="utf-8")


def test_what_is_left_out_has_the_usual_values(layout: Layout) -> None:
    change(layout, "student", to={"small": {"model": "mine", "lora": {"r": 8}, "optimizer": {"learning_rate": 1e-4}}})
    check_params(layout.params)
    write_students(layout)
    lora = {"r": 8, "lora_alpha": 32.0, "lora_dropout": 0.0, "use_rslora": False}
    lora |= {"target_modules": "all-linear", "base_dtype": "bfloat16"}
    start = {"model": "mine", "revision": None, "layers": None, "config": None, "lora": lora, "optimizer": {}}
    assert read_json(layout.student_start("small")) == {"student": {"small": start}}
    common = read_yaml(layout.params)["optimizer"]
    assert read_json(layout.student_optimizer("small")) == {"optimizer": common | {"learning_rate": 1e-4}}


def test_the_default_job_has_the_values_in_its_params(layout: Layout) -> None:
    document = read_yaml(layout.params)
    start, optimizer = complete_student(document, "small")
    assert list(start.layers or ()) == document["student"]["small"]["layers"]
    assert (start.model, start.revision, start.config, start.lora) == ("teacher", None, None, None)
    assert (optimizer.learning_rate, optimizer.decay_steps, optimizer.save_steps) == (1.5e-4, 24, 8)


def test_a_change_reaches_the_files_of_its_student_alone(layout: Layout) -> None:
    students: dict[str, dict[str, Any]]
    students = {name: {"model": "teacher", "layers": [0, layer]} for name, layer in (("a", 1), ("b", 2))}
    change(layout, "student", to=students)
    change(layout, "students", to=["a", "b"])

    def digests() -> dict[str, str]:
        write_students(layout)
        paths = [path(name) for name in "ab" for path in (layout.student_start, layout.student_optimizer)]
        return {f"{path.parent.name}/{path.stem}": tree_digest(path) for path in paths}

    def changed() -> set[str]:
        after = digests()
        return {name for name in after if after[name] != before[name]}

    before = digests()
    change(layout, "student", "a", to=students["a"] | {"revision": None, "optimizer": {"learning_rate": 1.5e-4}})
    assert changed() == set()  # the common value, written out
    change(layout, "student", "a", to=students["a"] | {"optimizer": {"learning_rate": 1e-5}})
    assert changed() == {"a/optimizer"}
    change(layout, "optimizer", "max_grad_norm", to=2.0)
    assert changed() == {"a/optimizer", "b/optimizer"}
    change(layout, "student", "a", to={"model": "teacher", "layers": [0]})
    assert changed() == {"a/start", "a/optimizer", "b/optimizer"}


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"rate": 1e-4}, "student.small.optimizer.rate: expected one of: learning_rate, "),
        ({"learning_rate": "fast"}, "student.small.optimizer.learning_rate: expected float, got 'fast' (str); fix"),
        (
            {"decay_steps": 2, "lr_scheduler_type": "linear"},
            "student.small.optimizer.decay_steps: expected at least schedule.total_steps (24)",
        ),
    ],
)
def test_a_mistake_in_a_students_optimizer_is_reported_with_its_key(
    layout: Layout, own: dict[str, Any], message: str
) -> None:
    change(layout, "student", "small", to={"model": "teacher", "optimizer": own})
    with pytest.raises(ParameterError) as caught:
        check_params(layout.params)
    assert str(caught.value).startswith(message)
