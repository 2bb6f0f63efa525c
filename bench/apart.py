"""A row of a benchmark in a process of its own: what another left in memory counts for neither its time nor its peak.

The benchmark's command prints the row as a line of JSON when it is called with `--only NAME`.
"""

import json
import subprocess
import sys
from typing import Any


def measured_apart(module: str, name: str, /, **options: object) -> Any:
    """What `python -m MODULE --only NAME` with these options prints last."""
    command = [sys.executable, "-m", module, "--only", name, *words(**options)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def words(**options: object) -> list[str]:
    """Options of a command as words of its line; None stands for one that is not given."""
    given = {key.replace("_", "-"): str(value) for key, value in options.items() if value is not None}
    return [word for key, value in given.items() for word in (f"--{key}", value)]
