"""Write stillroom.json and the model card of a student after a round of training."""

from pathlib import Path

import click

from pipeline.lineage.lineage import FILE, add_round, read_lineage, teacher_warning, write_lineage
from pipeline.lineage.model_card import model_card
from pipeline.lineage.records import Lineage, Round
from pipeline.runtime.errors import DataError


def lineage_before(model: Path, teacher: str) -> Lineage:
    """Return the lineage of the checkpoint at the beginning of a round.

    Print a warning if the student trained with scores of another teacher before; `teacher` is the fingerprint of the
    teacher that scores now.

    Raises:
        DataError: The checkpoint has no lineage.
    """
    lineage = read_lineage(model)
    if lineage is None:
        raise DataError(model / FILE, expected="a file", got="nothing", remedy="run `dvc repro --force` on its stage")
    if warning := teacher_warning(lineage, teacher):
        click.echo(f"warning: {warning}", err=True)
    return lineage


def write_round(model: Path, lineage: Lineage, trained: Round) -> None:
    """Write the lineage after a round beside the weights, for `stillroom lineage`, and the model card README.md."""
    after = add_round(lineage, trained)
    write_lineage(model, after)
    (model / "README.md").write_text(model_card(after))
