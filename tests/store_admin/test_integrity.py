"""pipeline.store_admin.integrity and `stillroom store`: nothing whole is touched, nothing damaged stays."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.runtime.errors import DataError, StoreError
from pipeline.store.segment_reader import Segment
from pipeline.store.segment_writer import write_segment
from pipeline.store.store import Store
from pipeline.store_admin.integrity import (
    collectable,
    find_segment,
    quarantine,
    segments,
    summarise_segment,
    verify_segments,
)
from stages import _stage as command
from stages._stage import run
from stages.cli.main import commands
from tests.factories import scored_sequence
from tests.scores import header

VOCAB = 50
HEADER = header(VOCAB)
RANKS = np.arange(VOCAB)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Three segments: sequences 0 and 1, 2 and 3, 4."""
    made = Store(root=tmp_path / "store")
    for names in ((0, 1), (2, 3), (4,)):
        made.publish([scored_sequence(name) for name in names], HEADER, RANKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STILLROOM_STORE", str(made.root))
    monkeypatch.setattr(command, "die_with_parent", lambda: None)
    return made


def holding(store: Store, name: int) -> Path:
    """The segment with this sequence."""
    return next(
        segment
        for segment in segments(store.root)
        if f"r{name}" in Segment.open(segment).index["rollout_id"].to_pylist()
    )


def stillroom(monkeypatch: pytest.MonkeyPatch, *args: str) -> Any:
    """The exit code of `stillroom store`."""
    monkeypatch.setattr(sys, "argv", ["stillroom", "store", *args])
    with pytest.raises(SystemExit) as caught:
        run(commands)
    return caught.value.code


def flip(path: Path) -> None:
    """Change a byte of the payload."""
    chunk = next(path.glob("payload.zarr/head/c.*"))
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 4
    chunk.write_bytes(bytes(data))


def test_facts_are_those_of_the_files(store: Store) -> None:
    actual = summarise_segment(holding(store, 4))
    on_disk = sum(path.stat().st_size for path in holding(store, 4).rglob("*") if path.name != "manifest.json")
    directories = sum(path.stat().st_size for path in holding(store, 4).rglob("*") if path.is_dir())
    assert (actual.sequences, actual.positions, actual.bytes) == (1, 4, on_disk - directories)
    assert actual.bytes_per_position == actual.bytes / 4
    assert (actual.teacher, actual.scorer, actual.codec) == ("teacher", "scorer", "sqrt8")


def test_a_segment_is_found_by_the_beginning_of_its_id(store: Store) -> None:
    path = segments(store.root)[0]
    assert find_segment(store.root, path.name[:10]) == path
    for name, count in (("", 3), ("nothing", 0)):
        with pytest.raises(StoreError, match=rf"expected one segment whose id begins with {name}.*, got {count};"):
            find_segment(store.root, name)


def test_unfinished_writes_are_no_segments(store: Store) -> None:
    (store.root / "segments/.tmp-1-a-host").mkdir()
    assert len(segments(store.root)) == 3


def test_damage_is_found_and_taken_away_and_the_rest_stays(store: Store) -> None:
    broken, bare = holding(store, 2), holding(store, 4)
    flip(broken)
    (bare / "index.parquet").unlink()
    actual = {segment.segment: segment for segment in verify_segments(segments(store.root)) if segment}
    assert actual.keys() == {broken.name, bare.name}
    assert actual[broken.name].rollouts == ["r2", "r3"]
    assert "payload.zarr/head/" in str(actual[broken.name].error)
    assert actual[bare.name].rollouts is None
    for result in actual.values():
        assert quarantine(store.root, result).is_dir()
    assert segments(store.root) == [holding(store, 0)]
    assert list(verify_segments(segments(store.root))) == [None]


def test_only_scores_that_no_checkout_uses_are_collectable(store: Store, tmp_path: Path) -> None:
    here, there, empty = tmp_path / "work", tmp_path / "elsewhere/work", tmp_path / "nothing"
    write_segment(here / "small/r1/segment", [scored_sequence(1)], HEADER, RANKS)
    write_segment(there / "corpus/segment", [scored_sequence(4)], HEADER, RANKS)
    write_segment(there / "other/segment", [scored_sequence(2)], replace(HEADER, scorer="another"), RANKS)
    assert collectable(store.root, [here, there]) == [holding(store, 2)]
    assert set(collectable(store.root, [here])) == {holding(store, 2), holding(store, 4)}
    assert collectable(tmp_path / "no store", [here]) == []
    with pytest.raises(DataError, match=r"nothing: expected the work directory of a checkout .*, got no segment"):
        collectable(store.root, [here, empty])  # else a wrong directory would cost everything


@pytest.mark.parametrize("name", ["run[12]", "ru?*", "score_key=7"])
def test_a_checkout_is_no_pattern(store: Store, tmp_path: Path, name: str) -> None:
    """The scores of a checkout are kept, and not those of another that its name, as a pattern, would match."""
    for checkout, number in ((name, 1), ("run1", 2)):
        write_segment(tmp_path / checkout / "work/corpus/segment", [scored_sequence(number)], HEADER, RANKS)
    assert set(collectable(store.root, [tmp_path / name / "work"])) == {holding(store, 2), holding(store, 4)}


def test_an_index_that_cannot_be_read_stops_the_collection(store: Store, tmp_path: Path) -> None:
    write_segment(tmp_path / "work/segment", [scored_sequence(1)], HEADER, RANKS)
    (holding(store, 4) / "index.parquet").write_bytes(b"rubbish")
    with pytest.raises(StoreError, match=r"expected readable indexes, got .*; run `stillroom store repair`"):
        collectable(store.root, [tmp_path / "work"])


# The commands


def test_ls_and_show(store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert stillroom(monkeypatch, "ls") == 0
    out = capsys.readouterr().out
    assert all(segment.name[:12] in out for segment in segments(store.root))
    assert "3 segments, 20 positions" in out
    assert stillroom(monkeypatch, "ls", "--json") == 0
    assert [load["segment"] for load in json.loads(capsys.readouterr().out)] == [
        segment.name for segment in segments(store.root)
    ]
    name = segments(store.root)[1].name
    assert stillroom(monkeypatch, "show", name[:16]) == 0
    assert json.loads(capsys.readouterr().out)["segment_id"] == name
    assert stillroom(monkeypatch, "show", "nothing") == 1
    assert "`stillroom store ls` lists them" in capsys.readouterr().err


@pytest.mark.parametrize("rubbish", [None, b"", b"{}", b"\xff", b"[1"])
def test_ls_lists_the_rest_and_names_the_segment_whose_manifest_is_damaged(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rubbish: bytes | None
) -> None:
    broken, *whole = segments(store.root)
    (broken / "manifest.json").unlink()
    if rubbish is not None:
        (broken / "manifest.json").write_bytes(rubbish)
    assert stillroom(monkeypatch, "ls") == 1
    out, err = capsys.readouterr()
    assert "2 segments, " in out
    assert all(path.name[:12] in out for path in whole)
    assert err.startswith(f"error: {broken}/manifest.json: expected ")
    assert err.count("\n") == 1
    assert stillroom(monkeypatch, "ls", "--json") == 1
    assert [load["segment"] for load in json.loads(capsys.readouterr().out)] == [path.name for path in whole]


def test_verify_and_repair(store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert stillroom(monkeypatch, "verify") == 0
    assert "0 damaged segments" in capsys.readouterr().out
    broken = holding(store, 0)
    flip(broken)
    assert stillroom(monkeypatch, "verify", "--json") == 1
    (load,) = json.loads(capsys.readouterr().out)
    assert (load["segment"], load["rollouts"]) == (broken.name, ["r0", "r1"])
    assert stillroom(monkeypatch, "repair") == 0
    assert "(2 sequences)" in capsys.readouterr().out
    assert (store.root / "quarantine" / broken.name / "manifest.json").is_file()
    assert stillroom(monkeypatch, "verify") == 0


def test_gc_deletes_nothing_without_force(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_segment(tmp_path / "work/corpus/segment", [scored_sequence(0), scored_sequence(4)], HEADER, RANKS)
    unused = holding(store, 2)
    assert stillroom(monkeypatch, "gc") == 0
    assert unused.name in capsys.readouterr().out
    assert unused.is_dir()
    assert stillroom(monkeypatch, "gc", "--force") == 0
    assert "1 segments" in capsys.readouterr().out
    assert not unused.exists()
    assert len(segments(store.root)) == 2


def test_gc_goes_past_a_damaged_manifest(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_segment(tmp_path / "work/corpus/segment", [scored_sequence(0)], HEADER, RANKS)
    broken, unused = holding(store, 2), holding(store, 4)
    (broken / "manifest.json").write_text("{", encoding="utf-8")
    assert stillroom(monkeypatch, "gc", "--force") == 1
    out, err = capsys.readouterr()
    assert "1 segments" in out
    assert err.startswith(f"error: {broken}/manifest.json: expected ")
    assert broken.is_dir()
    assert not unused.exists()
