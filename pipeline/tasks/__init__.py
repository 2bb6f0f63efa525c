"""Tasks: data sets as cases, and how completions of them are measured.

Read `base` first, then a task such as `gsm8k`, then `table` and `loading` (data sets), `templates` and
`prompts` (cases to prompts). A new task is a file in this directory and a line in `TASKS`.
"""

from pipeline.runtime.errors import ParameterError
from pipeline.tasks.arithmetic import Arithmetic
from pipeline.tasks.base import Case, Cases, Judged, Message, Split, Task
from pipeline.tasks.docstrings import Docstrings
from pipeline.tasks.gsm8k import Gsm8k
from pipeline.tasks.instructions import Instructions
from pipeline.tasks.summarisation import Summarisation
from pipeline.tasks.translation import Translation

__all__ = ["TASKS", "Case", "Cases", "Judged", "Message", "Split", "Task", "find_task"]

TASKS: dict[str, Task] = {
    "arithmetic": Arithmetic(),
    "docstrings": Docstrings(),
    "gsm8k": Gsm8k(),
    "instructions": Instructions(),
    "summarisation": Summarisation(),
    "translation": Translation(),
}


def find_task(name: str) -> Task:
    """Return the task with a name from params.yaml.

    Raises:
        ParameterError: When there is no such task; the message lists the tasks.
    """
    if name not in TASKS:
        raise ParameterError("task.name", expected=f"one of: {', '.join(sorted(TASKS))}", got=repr(name))
    return TASKS[name]
