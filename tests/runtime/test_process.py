"""pipeline.runtime.process: the output of a command; tests/runtime/test_resume.py ends a stage with its parent."""

import sys
from pathlib import Path

from pipeline.runtime.process import command_output


def test_the_output_of_a_command_is_returned(tmp_path: Path) -> None:
    assert command_output(sys.executable, "-c", "import os; print(os.getcwd())", cwd=tmp_path) == str(tmp_path)
    assert command_output(sys.executable, "-c", "raise SystemExit(1)") is None
    assert command_output("no-such-command") is None
