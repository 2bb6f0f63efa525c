"""stillroom.json and the model card beside a student that has been trained for one round more."""

from collections.abc import Sequence
from pathlib import Path

import click

from pipeline.core.hashing import digest
from pipeline.core.types import Rollout
from pipeline.lineage.lineage import FILE, add_round, read_lineage, teacher_warning, write_lineage
from pipeline.lineage.model_card import model_card
from pipeline.lineage.records import Lineage, Round, Scored
from pipeline.runtime.errors import DataError
from pipeline.store.segment_reader import Segment


def lineage_before(model: Path, segment: Segment) -> Lineage:
    """The lineage of the checkpoint that a round begins with; says in a line when another teacher scores now."""
    lineage = read_lineage(model)
    if lineage is None:
        raise DataError(model / FILE, expected="a file", got="nothing", remedy="run `dvc repro --force` on its stage")
    if warning := teacher_warning(lineage, segment.manifest.teacher):
        click.echo(f"warning: {warning}", err=True)
    return lineage


def write_pedigree(model: Path, lineage: Lineage, one: Round) -> None:
    """What `stillroom lineage` reads, and README.md."""
    after = add_round(lineage, one)
    write_lineage(model, after)
    (model / "README.md").write_text(model_card(after))


def describe_round(
    round_id: str,
    first_step: int,
    segments: dict[str, Segment],
    rollouts: Sequence[Rollout],
    rows: Sequence[dict[str, int]],
    *,
    task: str,
    settings: dict[str, object],
    parameters: dict[str, object],
) -> Round:
    """One round as its files tell it; `rows` are those of its training log."""
    manifest = next(iter(segments.values())).manifest
    data = settings.get("data")
    return Round(
        id=round_id,
        first_step=first_step,
        steps=len(rows),  # a round that became too stale ends early
        teacher=manifest.teacher,
        tokenizer=manifest.tokenizer,
        scorer=manifest.scorer,
        task=task,
        settings=settings,
        hub_data=isinstance(data, str) and not Path(data).expanduser().exists(),
        prompts=digest(sorted({(one.prompt_id, tuple(one.prompt_ids)) for one in rollouts})),
        parameters=parameters,
        scored=tuple(
            Scored(name=name, segment=one.manifest.segment_id, positions=one.manifest.positions)
            for name, one in segments.items()
        ),
        tokens=sum(row["tokens"] for row in rows),
        read_tokens=sum(row["read_tokens"] for row in rows),
    )
