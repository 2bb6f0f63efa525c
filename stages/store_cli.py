"""`stillroom store`: look after the teacher's scores at STILLROOM_STORE."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from stages.command import store_root

_NAME = 12  # digits of an id that people see


@click.group()
def store() -> None:
    """Look after the store of teacher scores (STILLROOM_STORE, default .store)."""


@store.command()
@click.option("--json", "as_json", is_flag=True, help="One object a segment, for scripts.")
def ls(as_json: bool) -> None:
    """List the segments, from their manifests."""
    from pipeline.report import markdown
    from pipeline.upkeep import facts, segments

    found = [facts(path) for path in segments(store_root())]
    if as_json:
        click.echo(json.dumps([asdict(one) for one in found]))
        return
    rows = [["segment", "written", "teacher", "codec", "sequences", "positions", "bytes", "B/position"]]
    rows += [
        [
            *(one.segment[:_NAME], one.written, one.teacher[:_NAME], one.codec),
            *(f"{one.sequences:,}", f"{one.positions:,}", f"{one.bytes:,}", f"{one.bytes_per_position:.1f}"),
        ]
        for one in found
    ]
    click.echo("\n".join(markdown(rows)))
    positions, size = sum(one.positions for one in found), sum(one.bytes for one in found)
    click.echo(f"{len(found)} segments, {positions:,} positions, {size:,} bytes at {store_root()}")


@store.command()
@click.argument("segment")
def show(segment: str) -> None:
    """Print a segment's manifest; the beginning of its id is enough."""
    from pipeline.segment import read_manifest
    from pipeline.upkeep import find_segment

    click.echo(read_manifest(find_segment(store_root(), segment)).to_text(), nl=False)


@store.command()
@click.option("--json", "as_json", is_flag=True, help="One object a damaged segment, for scripts.")
def verify(as_json: bool) -> None:
    """Read every byte and compare it with the manifests; exit code 1 where something is damaged."""
    damages = _damages()
    if as_json:
        click.echo(json.dumps([_told(one) for one in damages]))
    else:
        _say(damages)
    if damages:
        raise SystemExit(1)


@store.command()
def repair() -> None:
    """Move what is damaged to STORE/quarantine and say what has to be scored again."""
    from pipeline.upkeep import quarantine

    damages = _damages()
    _say(damages)
    for one in damages:
        click.echo(f"moved to {quarantine(store_root(), one)}")
    if damages:
        click.echo("the next stage that misses these scores asks the teacher again: `make repro`")


@store.command()
@click.option("--work", "works", type=Path, multiple=True, help="Work directory of a checkout in use; several times.")
@click.option("--force", is_flag=True, help="Delete; without it nothing is touched.")
def gc(works: tuple[Path, ...], force: bool) -> None:
    """Drop segments whose scores none of the checkouts has in use (default: only the one here)."""
    from pipeline.upkeep import collect, collectable, facts

    paths = collectable(store_root(), works or (Path("work"),))
    size = sum(facts(one).bytes for one in paths)
    for one in paths:
        click.echo(one.name)
    click.echo(f"{len(paths)} segments, {size:,} bytes" + (" deleted" if force else ": --force deletes them"))
    if force:
        collect(paths)


def _damages() -> list[Any]:
    from tqdm import tqdm

    from pipeline.upkeep import check, segments

    paths = segments(store_root())
    checked = tqdm(check(paths), total=len(paths), desc="verify", unit="segment", leave=False)
    return [one for one in checked if one is not None]


def _say(damages: Sequence[Any]) -> None:
    for one in damages:
        lost = "its index is gone" if one.rollouts is None else f"{len(one.rollouts)} sequences"
        click.echo(f"{one.error} ({lost})")
    click.echo(f"{len(damages)} damaged segments at {store_root()}")


def _told(damage: Any) -> dict[str, Any]:
    return {"segment": damage.segment, "error": str(damage.error), "rollouts": damage.rollouts}
