"""A small job that benchmarks start from: params.yaml, a random teacher and prompts, made by the stages themselves."""

import json
from collections.abc import Callable
from pathlib import Path

from pipeline.runtime.yaml_files import write_yaml
from stages import prepare, teacher
from tests.project import PARAMS


def make_small_job(folder: Path, make_model_dir: Callable[..., Path]) -> None:
    """In `folder`, where the caller stands; the teacher has a name that holds elsewhere too."""
    make_model_dir(folder / "models" / "teacher", layers=4, seed=1, initializer_range=0.2)
    write_sums(folder)
    model = {"model": str(folder / "models" / "teacher"), "revision": None, "dtype": "float32"}
    write_yaml(folder / "params.yaml", PARAMS | {"teacher": model}, comment="Of a test.")
    for command, options in ((teacher.main, ["--out", "work/teacher"]), (prepare.main, ["--teacher", "work/teacher"])):
        command.main(args=options, standalone_mode=False)


def write_sums(folder: Path) -> None:
    """Twelve questions to learn from and four that are held out, where `PARAMS` looks for them."""
    (folder / "data").mkdir()
    for split, start, count in (("train", 0, 12), ("test", 100, 4)):
        asked = [{"question": f"What is {n} + 1?", "answer": f"#### {n + 1}"} for n in range(start, start + count)]
        (folder / "data" / f"{split}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked))
