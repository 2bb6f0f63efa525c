"""Complete the section `student` of params.yaml: defaults, and the optimizer of each student.

A student's section holds what differs. Stages read the complete values from work/students, so that DVC notices a change
of a default in the code, and trains again exactly the students whose optimizer has changed.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pipeline.checkpoints.student import StudentParams
from pipeline.runtime.atomic import whole_directory
from pipeline.runtime.config import parse
from pipeline.runtime.files import json_text, write_json
from pipeline.runtime.layout import Layout
from pipeline.runtime.yaml_files import read_yaml
from pipeline.training.optimizer import OptimizerParams


def complete_student(document: Mapping[str, Any], name: str) -> tuple[StudentParams, OptimizerParams]:
    """Return the start of a student and its optimizer, with every default written out.

    Args:
        document: The content of params.yaml.
        name: The student.

    Raises:
        ParameterError: A value is wrong, or the optimizer has no such key.
    """
    where = f"student.{name}"
    start = parse(StudentParams, document["student"][name], where=where)
    optimizer = parse(OptimizerParams, {**document["optimizer"], **start.optimizer}, where=f"{where}.optimizer")
    return replace(start, optimizer={}), optimizer


def student_files(layout: Layout, document: Mapping[str, Any], name: str) -> dict[Path, Any]:
    """Return the content of the files of a student, as JSON has it.

    The keys are those of params.yaml, because dvc.lock and `stillroom lineage` show them.

    Raises:
        ParameterError: A value is wrong, or the optimizer has no such key.
    """
    start, optimizer = complete_student(document, name)
    contents = {
        layout.student_start(name): {"student": {name: asdict(start)}},
        layout.student_optimizer(name): {"optimizer": asdict(optimizer)},
    }
    return {path: json.loads(json_text(content)) for path, content in contents.items()}


def write_students(layout: Layout) -> None:
    """Write work/students from params.yaml.

    Raises:
        ParameterError: A value is wrong.
    """
    document = read_yaml(layout.params)
    with whole_directory(layout.students) as folder:
        for name in document["student"]:
            for path, content in student_files(layout, document, name).items():
                write_json(folder / path.relative_to(layout.students), content)
