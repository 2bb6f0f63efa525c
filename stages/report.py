"""Gather the evaluations, logs and costs of a run into report/.

In: work/evaluations, work/costs, logs, params.yaml and rounds.yaml. Out: the page index.html, metrics.json,
summary/NAME.json with the key figures of each model, which are rows of `dvc metrics show`, the files of `dvc plots`, a
picture, and the table, which is also printed.
"""

from typing import Any

import click

from pipeline.report.run_report import read_run, write_report
from stages._stage import StageContext, run, stage


@stage(None, students=tuple[str, ...])
def main(ctx: StageContext, p: Any) -> None:
    """Write the report."""
    write_report(ctx.layout, read_run(ctx.layout, p.students))
    click.echo((ctx.layout.report / "table.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    run(main)
