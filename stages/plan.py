"""Check params.yaml, that rounds.yaml is what `stillroom plan` would write, and that the store can be written.

In: the two files. Out: work/plan.json, which is constant, so that the other stages depend on the checks only for their
order, and work/students, the section and the optimizer of each student with every default written out.
"""

from typing import Any

from pipeline.runtime.files import write_json
from pipeline.runtime.layout import store_root
from pipeline.runtime.yaml_files import read_yaml
from pipeline.store.access import check_writable
from pipeline.workspace.input_check import check_inputs
from pipeline.workspace.schedule import check_rounds, read_schedule
from pipeline.workspace.students import write_students
from pipeline.workspace.validation import check_params
from stages._stage import StageContext, run, stage


@stage(None)
def main(ctx: StageContext, _: Any) -> None:
    """Check the files, and complete the students."""
    params = ctx.layout.params
    check_params(params)
    check_inputs(read_yaml(params))
    check_rounds(ctx.layout.rounds, *read_schedule(params))
    check_writable(store_root())
    write_students(ctx.layout)
    write_json(ctx.layout.plan, {"sound": True})


if __name__ == "__main__":
    run(main)
