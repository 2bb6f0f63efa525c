"""`stillroom store`: look after the teacher's scores at STILLROOM_STORE."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from pipeline.runtime.layout import LAYOUT, store_root

_NAME = 12  # digits of an id that people see


@click.group()
def store() -> None:
    """Look after the store of teacher scores (STILLROOM_STORE, default .store)."""


@store.command()
@click.option("--json", "as_json", is_flag=True, help="One object a segment, for scripts.")
def ls(as_json: bool) -> None:
    """List the segments, from their manifests; exit code 1 where a manifest is damaged, which is told and left out."""
    from pipeline.store_admin.integrity import list_segments, segments

    found, damaged = list_segments(segments(store_root()))
    if as_json:
        click.echo(json.dumps([asdict(one) for one in found]))
    else:
        _list(found)
    _tell_damage(damaged)


def _tell_damage(damaged: Sequence[Exception]) -> None:
    """What is wrong with segments that a command went past, and exit code 1 where there are some."""
    for error in damaged:
        click.echo(f"error: {error}", err=True)
    if damaged:
        raise SystemExit(1)


def _list(found: Sequence[Any]) -> None:
    from pipeline.runtime.markdown import markdown_table

    rows = [["segment", "written", "teacher", "codec", "sequences", "positions", "bytes", "B/position"]]
    rows += [
        [
            *(one.segment[:_NAME], one.written, one.teacher[:_NAME], one.codec),
            *(f"{one.sequences:,}", f"{one.positions:,}", f"{one.bytes:,}", f"{one.bytes_per_position:.1f}"),
        ]
        for one in found
    ]
    click.echo(markdown_table(rows))
    positions, size = sum(one.positions for one in found), sum(one.bytes for one in found)
    click.echo(f"{len(found)} segments, {positions:,} positions, {size:,} bytes at {store_root()}")


@store.command()
@click.argument("segment")
def show(segment: str) -> None:
    """Print a segment's manifest; the beginning of its id is enough."""
    from pipeline.store.manifest import read_manifest
    from pipeline.store_admin.integrity import find_segment

    click.echo(read_manifest(find_segment(store_root(), segment)).to_text(), nl=False)


@store.command()
@click.option("--json", "as_json", is_flag=True, help="One object a damaged segment, or the agreement, for scripts.")
@click.option("--rescore", "count", metavar="N", type=click.IntRange(1), help="Ask work/teacher about N sequences too.")
def verify(as_json: bool, count: int | None) -> None:
    """Read every byte and compare it with the manifests; exit code 1 where something is damaged.

    With --rescore also compare N sequences, the same ones each time, with what work/teacher says now; exit code 1
    where they differ by more than the codec's bounds and the engine's rounding.
    """
    damages = _damages()
    if as_json and (damages or not count):
        click.echo(json.dumps([_told(one) for one in damages]))
    elif not as_json:
        _say(damages)
    if damages or (count and not _agrees(count, as_json)):
        raise SystemExit(1)


@store.command()
def repair() -> None:
    """Move what is damaged to STORE/quarantine and say what has to be scored again."""
    from pipeline.store_admin.integrity import quarantine

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
    """Drop segments whose scores none of the checkouts has in use (default: only the one here).

    One whose manifest is damaged is told and left for `stillroom store repair`; exit code 1.
    """
    from pipeline.store_admin.integrity import collect, collectable, list_segments, segments

    found, _ = list_segments(collectable(store_root(), works or (LAYOUT.work,)))
    for one in found:
        click.echo(one.segment)
    size = sum(one.bytes for one in found)
    click.echo(f"{len(found)} segments, {size:,} bytes" + (" deleted" if force else ": --force deletes them"))
    if force:
        collect([store_root() / "segments" / one.segment for one in found])
    _tell_damage(list_segments(segments(store_root()))[1])


@store.command("import")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option("--tokenizer", type=Path, help="Parquet: model directory with the tokenizer of the ids.")
@click.option("--teacher", help="Parquet: the teacher's name, by which its scores are told apart.")
@click.option("--prompt-tokens", type=click.IntRange(1), help="Parquet with input_ids but no labels: prompt length.")
@click.option("--json", "as_json", is_flag=True, help="The counts, for scripts.")
def import_(as_json: bool, source: Path, **origin: Any) -> None:
    """Take scores from SOURCE: segments, or Parquet.

    A directory with segments (a checkout, its work directory, a store): each is verified and copied unless the store
    has all its scores; exit code 1 where one is damaged.

    Otherwise a Parquet file or a directory of them, as `stillroom store export` writes them or as raw top-k in
    DistillKit's columns: input_ids, token_ids, top_values (natural log-probs). DistillKit's sampler writes no split
    between prompt and completion: labels, where there are any, are negative at the prompt, else --prompt-tokens says.
    """
    from pipeline.store_admin.import_scores import take_parquet, take_segments
    from pipeline.store_admin.import_segments import find_sealed

    paths = find_sealed(source)
    counts = take_segments(paths) if paths else take_parquet(source, **origin)
    if as_json:
        click.echo(json.dumps(counts))
    else:
        click.echo(", ".join(f"{number:,} {name}" for name, number in counts.items()) + f" into {store_root()}")
    if counts.get("damaged"):
        raise SystemExit(1)


@store.command()
@click.argument("out", type=Path)
@click.option("--segment", "names", multiple=True, help="Only this one; the beginning of its id is enough.")
@click.option("--json", "as_json", is_flag=True, help="The files, for scripts.")
def export(out: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Write scores to OUT as plain Parquet, one file a segment, one row a sequence; `import` reads it."""
    from pipeline.store_admin.export_parquet import export_segment
    from pipeline.store_admin.integrity import find_segment, segments

    paths = [find_segment(store_root(), name) for name in names] or segments(store_root())
    files = [str(export_segment(one, out)) for one in tqdm(paths, desc="export", unit="segment", leave=False)]
    click.echo(json.dumps(files) if as_json else f"{len(files)} segments to {out}")


@store.command()
@click.option("--json", "as_json", is_flag=True, help="One object a score stage, for scripts.")
@click.option(
    "--sample", metavar="N", type=click.IntRange(1), help="Have N sequences of each written round scored first."
)
def forecast(as_json: bool, sample: int | None) -> None:
    """What the schedule still asks of the teacher: positions, bytes, seconds, and what they rest on.

    With --sample the bytes of rollouts that are written rest on N of their own sequences, which the teacher scores now
    and the score stage finds in the store.

    Segments whose manifest is damaged are told and not counted on; exit code 1.
    """
    from pipeline.store_admin.integrity import list_segments, segments
    from pipeline.workspace.forecast_inputs import forecast_schedule, score_sample

    if sample is not None:
        score_sample(sample)
    found = forecast_schedule()
    if as_json:
        click.echo(json.dumps([asdict(one) for one in found]))
    else:
        _list_needs(found)
    _tell_damage(list_segments(segments(store_root()))[1])


def _list_needs(found: Sequence[Any]) -> None:
    from pipeline.runtime.markdown import markdown_table

    rows = [["score stage", "positions", "known", "bytes", "seconds"]]
    rows += [
        [one.name, f"{one.positions:,}", f"{one.known:,}", _figure(one.bytes), _figure(one.seconds)] for one in found
    ]
    columns = [[getattr(one, name) for one in found] for name in ("positions", "known", "bytes", "seconds")]
    totals = [None if None in column else sum(column) for column in columns]
    click.echo(markdown_table([*rows, ["in all", *map(_figure, totals)]]))
    for one in found:
        click.echo(f"{one.name}: {one.basis}")


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.0f}"


def _damages() -> list[Any]:
    from pipeline.store_admin.integrity import segments, verify_segments

    paths = segments(store_root())
    checked = tqdm(verify_segments(paths), total=len(paths), desc="verify", unit="segment", leave=False)
    return [one for one in checked if one is not None]


def _say(damages: Sequence[Any]) -> None:
    for one in damages:
        lost = "its index is gone" if one.rollouts is None else f"{len(one.rollouts)} sequences"
        click.echo(f"{one.error} ({lost})")
    click.echo(f"{len(damages)} damaged segments at {store_root()}")


def _told(damage: Any) -> dict[str, Any]:
    return {"segment": damage.segment, "error": str(damage.error), "rollouts": damage.rollouts}


def _agrees(count: int, as_json: bool) -> bool:
    from pipeline.store_admin.rescore import MIN_P, rescore

    found, unchecked = rescore(count)
    if as_json:
        click.echo(json.dumps(asdict(found) | {"holds": found.holds, "unchecked_segments": unchecked}))
        return found.holds
    click.echo(
        f"{found.sequences} sequences, {found.positions:,} positions, {found.entries:,} entries of p >= {MIN_P:g}: "
        f"log-probs differ by {found.largest:.4f} nats at most and {found.mean:.4f} on average; beyond the codec's "
        f"bounds and {found.allowance:g} nats for the engine's rounding by {found.excess:.4f}"
    )
    click.echo(f"forward KL {found.mean_kl:.6f} nats, of which {found.allowed_kl:.6f} are explained")
    click.echo(f"{unchecked} segments not compared: another teacher or configuration wrote them")
    click.echo("the teacher agrees" if found.holds else "the teacher DISAGREES: was it the teacher that wrote them?")
    return found.holds
