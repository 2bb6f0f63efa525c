"""The commands of `stillroom store`, for the store of teacher scores at STILLROOM_STORE."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from pipeline.runtime.layout import LAYOUT, store_root
from pipeline.runtime.text import markdown_table, number_text, short, size_text


@click.group()
def store() -> None:
    """Look after the store of teacher scores.

    The store is the directory STILLROOM_STORE, by default .store.
    """


def _print(records: Sequence[Any], as_json: bool, print_table: Callable[[Sequence[Any]], None]) -> None:
    """Print dataclasses as JSON or as a table, then the damaged segments of the store; fail if there are any."""
    from pipeline.store_admin.integrity import list_segments, segments

    if as_json:
        click.echo(json.dumps([asdict(record) for record in records]))
    else:
        print_table(records)
    _, damaged = list_segments(segments(store_root()))
    for error in damaged:
        click.echo(f"error: {error}", err=True)
    if damaged:
        raise SystemExit(1)


@store.command()
@click.option("--json", "as_json", is_flag=True, help="Print one object per segment, for scripts.")
def ls(as_json: bool) -> None:
    """List the segments by their manifests.

    Damaged manifests are reported and left out; the exit code is then 1.
    """
    from pipeline.store_admin.integrity import list_segments, segments

    _print(list_segments(segments(store_root()))[0], as_json, _print_segments)


def _print_segments(summaries: Sequence[Any]) -> None:
    rows = [["segment", "written", "teacher", "codec", "sequences", "positions", "size", "bytes/position"]]
    for summary in summaries:
        names = [short(summary.segment), summary.written, short(summary.teacher), summary.codec]
        numbers = [f"{number:,}" for number in (summary.sequences, summary.positions)]
        rows.append([*names, *numbers, size_text(summary.bytes), f"{summary.bytes_per_position:.1f}"])
    click.echo(markdown_table(rows))
    positions, size = (sum(getattr(summary, name) for summary in summaries) for name in ("positions", "bytes"))
    click.echo(f"{len(summaries)} segments, {positions:,} positions, {size_text(size)} at {store_root()}")


@store.command()
@click.argument("segment")
def show(segment: str) -> None:
    """Print the manifest of SEGMENT.

    The beginning of its id is enough.
    """
    from pipeline.store.manifest import read_manifest
    from pipeline.store_admin.integrity import find_segment

    click.echo(read_manifest(find_segment(store_root(), segment)).to_text(), nl=False)


@store.command()
@click.option("--json", "as_json", is_flag=True, help="Print one object per damaged segment, or the agreement.")
@click.option("--rescore", "count", metavar="N", type=click.IntRange(1), help="Also run work/teacher on N sequences.")
def verify(as_json: bool, count: int | None) -> None:
    """Read every byte and compare it with the manifests.

    The exit code is 1 if something is damaged.

    With --rescore also compare the scores of N sequences, always the same ones, with new scores of work/teacher. The
    exit code is 1 if they differ by more than the codec's bounds and the engine's rounding.
    """
    damages = _damages()
    if not as_json:
        _print_damages(damages)
    elif damages or not count:
        fields = [(damage.segment, str(damage.error), damage.rollouts) for damage in damages]
        click.echo(json.dumps([dict(zip(("segment", "error", "rollouts"), values, strict=True)) for values in fields]))
    if damages or (count and not _agrees(count, as_json)):
        raise SystemExit(1)


@store.command()
def repair() -> None:
    """Move damaged segments to STORE/quarantine.

    Print how many sequences the teacher has to score again.
    """
    from pipeline.store_admin.integrity import quarantine

    damages = _damages()
    _print_damages(damages)
    for damage in damages:
        click.echo(f"moved to {quarantine(store_root(), damage)}")
    if damages:
        click.echo("the teacher scores these sequences again when a stage needs them: `make repro`")


@store.command()
@click.option("--work", "works", type=Path, multiple=True, help="Work directory of a checkout in use; repeatable.")
@click.option("--force", is_flag=True, help="Delete the segments. Without it, only list them.")
def gc(works: tuple[Path, ...], force: bool) -> None:
    """List or delete the segments that no checkout uses.

    By default only the checkout in this directory counts.

    Segments with a damaged manifest are reported and left for `stillroom store repair`; the exit code is then 1.
    """
    from pipeline.store_admin.integrity import collect, collectable, list_segments

    unused, _ = list_segments(collectable(store_root(), works or (LAYOUT.work,)))
    if force:
        collect([store_root() / "segments" / summary.segment for summary in unused])
    _print(unused, False, lambda summaries: _print_unused(summaries, "deleted" if force else "--force deletes them"))


def _print_unused(summaries: Sequence[Any], outcome: str) -> None:
    for summary in summaries:
        click.echo(summary.segment)
    click.echo(f"{len(summaries)} segments, {size_text(sum(summary.bytes for summary in summaries))}: {outcome}")


@store.command("import")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option("--tokenizer", type=Path, help="For Parquet: model directory with the tokenizer of the token ids.")
@click.option("--teacher", help="For Parquet: a name for the teacher that computed the scores.")
@click.option("--prompt-tokens", type=click.IntRange(1), help="For Parquet without labels: length of each prompt.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON, for scripts.")
def import_(as_json: bool, source: Path, **origin: Any) -> None:
    """Copy scores from SOURCE into the store.

    SOURCE is a directory with segments (a checkout, its work directory, or a store) or Parquet. Segments are verified
    and copied unless the store has all their scores; the exit code is 1 if one is damaged.

    Parquet is a file, or a directory of files, that `stillroom store export` wrote, or raw top-k in DistillKit's
    columns: input_ids, token_ids, top_values (natural log-probs). DistillKit's sampler does not separate prompt and
    completion: the labels of prompt tokens are negative, and without labels --prompt-tokens is needed. Later negative
    labels, or false in a column completion_mask, mark tokens that users or tools wrote.
    """
    from pipeline.store_admin.import_scores import find_sealed, take_parquet, take_segments

    paths = find_sealed(source)
    counts = take_segments(paths) if paths else take_parquet(source, **origin)
    text = ", ".join(f"{number:,} {name}" for name, number in counts.items())
    click.echo(json.dumps(counts) if as_json else f"{text} into {store_root()}")
    if counts.get("damaged"):
        raise SystemExit(1)


@store.command()
@click.argument("out", type=Path)
@click.option("--segment", "names", multiple=True, help="Export only this segment; the beginning of its id is enough.")
@click.option("--json", "as_json", is_flag=True, help="Print the files as JSON, for scripts.")
def export(out: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Write scores to OUT as plain Parquet.

    There is one file per segment and one row per sequence. `stillroom store import` reads them.
    """
    from pipeline.store_admin.export_parquet import export_segment
    from pipeline.store_admin.integrity import find_segment, segments

    paths = [find_segment(store_root(), name) for name in names] or segments(store_root())
    files = [str(export_segment(path, out)) for path in tqdm(paths, desc="export", unit="segment", leave=False)]
    click.echo(json.dumps(files) if as_json else f"{len(files)} segments to {out}")


@store.command()
@click.option("--json", "as_json", is_flag=True, help="Print one object per score stage, for scripts.")
@click.option("--sample", metavar="N", type=click.IntRange(1), help="First score N sequences of each written round.")
def forecast(as_json: bool, sample: int | None) -> None:
    """Estimate what the teacher still has to score.

    Print positions, bytes and seconds, and what these numbers rest on.

    With --sample, the teacher first scores N sequences of each written rollouts file. The estimate of its bytes then
    rests on these sequences, and the score stage finds them in the store.

    Segments with a damaged manifest are reported and do not count; the exit code is then 1.
    """
    from pipeline.workspace.forecast_inputs import forecast_schedule, score_sample

    if sample is not None:
        score_sample(sample)
    _print(forecast_schedule(), as_json, _print_estimates)


def _print_estimates(estimates: Sequence[Any]) -> None:
    columns = ("positions", "known", "bytes", "seconds")
    values = {estimate.name: [getattr(estimate, column) for column in columns] for estimate in estimates}
    values["in all"] = [None if None in column else sum(column) for column in zip(*values.values(), strict=True)]
    shows = (number_text, number_text, size_text, number_text)
    rows = [
        (name, *(show(number) for show, number in zip(shows, numbers, strict=True))) for name, numbers in values.items()
    ]
    click.echo(markdown_table([("score stage", "positions", "known", "size", "seconds"), *rows]))
    for estimate in estimates:
        click.echo(f"{estimate.name}: {estimate.basis}")


def _damages() -> list[Any]:
    from pipeline.store_admin.integrity import segments, verify_segments

    paths = segments(store_root())
    checked = tqdm(verify_segments(paths), total=len(paths), desc="verify", unit="segment", leave=False)
    return [damage for damage in checked if damage is not None]


def _print_damages(damages: Sequence[Any]) -> None:
    for damage in damages:
        lost = "its index is gone" if damage.rollouts is None else f"{len(damage.rollouts)} sequences"
        click.echo(f"{damage.error} ({lost})")
    click.echo(f"{len(damages)} damaged segments at {store_root()}")


def _agrees(count: int, as_json: bool) -> bool:
    from pipeline.runtime.templates import fill_template
    from pipeline.store_admin.rescore import MIN_P, rescore

    agreement, unchecked = rescore(count)
    if as_json:
        click.echo(json.dumps(asdict(agreement) | {"holds": agreement.holds, "unchecked_segments": unchecked}))
    else:
        template = Path(__file__).with_name("agreement.txt.j2")
        click.echo(fill_template(template, agreement=agreement, unchecked=unchecked, min_p=MIN_P), nl=False)
    return agreement.holds
