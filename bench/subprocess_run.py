"""A row of a benchmark in a process of its own: what another left in memory counts for neither its time nor its peak.

The benchmark's command prints the row as a line of JSON when it is called with `--only NAME`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def measured_apart(module: str, name: str, /, **options: object) -> Any:
    """What `python -m MODULE --only NAME` with these options prints last."""
    command = [sys.executable, "-m", module, "--only", name, *words(**options)]
    found = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | {"PYTHONPATH": found}
    )
    return json.loads(done.stdout.splitlines()[-1])


def words(**options: object) -> list[str]:
    """Options of a command as words of its line; None stands for one that is not given."""
    given = {key.replace("_", "-"): str(value) for key, value in options.items() if value is not None}
    return [word for key, value in given.items() for word in (f"--{key}", value)]


def peak_bytes() -> int:
    """Most resident memory of this process so far (Linux). `ru_maxrss` would not do: it begins with the parent's."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024
