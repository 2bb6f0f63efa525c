"""The tasks. A new one is a file in this directory and a line in `TASKS`."""

from pipeline.runtime.errors import ParameterError
from pipeline.tasks.arithmetic import Arithmetic
from pipeline.tasks.base import Case, Judged, Message, Split, Task
from pipeline.tasks.docstrings import Docstrings
from pipeline.tasks.gsm8k import Gsm8k
from pipeline.tasks.instructions import Instructions
from pipeline.tasks.summarisation import Summarisation
from pipeline.tasks.translation import Translation

__all__ = ["TASKS", "Case", "Judged", "Message", "Split", "Task", "find_task"]

TASKS: dict[str, Task] = {
    "arithmetic": Arithmetic(),
    "docstrings": Docstrings(),
    "gsm8k": Gsm8k(),
    "instructions": Instructions(),
    "summarisation": Summarisation(),
    "translation": Translation(),
}


def find_task(name: str) -> Task:
    """The task called `name` in params.yaml; a ParameterError that lists the tasks when there is none."""
    if name not in TASKS:
        known = ", ".join(sorted(TASKS))
        raise ParameterError("task.name", expected=f"one of: {known}", got=repr(name), remedy="mend params.yaml")
    return TASKS[name]
