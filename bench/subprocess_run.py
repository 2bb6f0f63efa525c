"""Measure one row of a benchmark in a subprocess.

What another row left in memory then counts neither for the time nor for the peak of memory. A benchmark that is called
with `--only NAME` prints one row as a line of JSON.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def run_in_subprocess(module: str, name: str, /, **options: object) -> Any:
    """Run `python -m MODULE --only NAME` with these options, and return the JSON value on its last line."""
    command = [sys.executable, "-m", module, "--only", name, *option_words(**options)]
    python_path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": python_path},
        encoding="utf-8",
    )
    return json.loads(done.stdout.splitlines()[-1])


def option_words(**options: object) -> list[str]:
    """Return options as words of a command line; an option whose value is None is left out."""
    values = {key.replace("_", "-"): str(value) for key, value in options.items() if value is not None}
    return [word for key, value in values.items() for word in (f"--{key}", value)]


def peak_bytes() -> int:
    """Return the peak of this process's resident memory so far, on Linux.

    `ru_maxrss` cannot be used, because it starts with the peak of the parent process.
    """
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024
