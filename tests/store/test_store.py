"""Segments come back as they were written, or not at all: under damage, kills, full disks and rival writers."""

import dataclasses
import errno
import hashlib
import importlib.util
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.core.types import PositionStats, Rollout, ScoredSequence, Scores, TokenSequence
from pipeline.runtime.errors import StoreError
from pipeline.store import zarr_payload as payload_module
from pipeline.store.codecs import CODECS, ErrorBounds, config_of
from pipeline.store.codecs.sqrt8 import Sqrt8
from pipeline.store.keys import sequence_key, support_key
from pipeline.store.segment_reader import Segment
from pipeline.store.segment_writer import write_segment
from pipeline.store.store import Location, Store
from schemas.manifest import Manifest, SegmentHeader
from schemas.segment import INDEX
from tests.factories import rollout
from tests.scores import arrays_of, entries

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def _no_waiting_for_the_device() -> Iterator[None]:
    """What a process sees of its files does not depend on fsync; the writers that are killed keep it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


def _rollout(name: str, prompt: list[int], completion: list[int], support: list[list[int]]) -> Rollout:
    changes: dict[str, Any] = {"prompt_id": f"p-{name}", "policy": "policy", "finished": len(completion) % 2 == 0}
    return rollout(name, completion, prompt=prompt, support_ids=support, **changes)


def _sequence(seed: int, tokens: int, vocab: int, temperatures: int) -> ScoredSequence:
    rng = np.random.default_rng(seed)
    completion = rng.integers(0, vocab, tokens)
    heads, unions, draws = [], [], []
    for token in completion:
        others = rng.permutation(min(vocab, 300))[:8] + vocab - min(vocab, 300)
        others = others[others != token]
        heads.append(np.append(others[: rng.integers(0, 4)], token))
        unions.append(others[4 : 4 + rng.integers(0, 3)])
        draws.append(rng.integers(0, vocab, 2)[rng.integers(0, 2, rng.integers(0, 5))])  # some come twice

    lse_NH = rng.normal(size=(tokens, temperatures)) * (np.arange(temperatures) > 0)
    top, student, tail_samples = (
        entries(rows, -rng.exponential(3, sum(map(len, rows)))) for rows in (heads, unions, draws)
    )
    stats = PositionStats(
        tail_NH=rng.random((tokens, temperatures)).astype(np.float32),
        student_tail_NH=rng.choice([0.0, 0.01], size=(tokens, temperatures)).astype(np.float32),
        lse_NH=lse_NH.astype(np.float32),
        token_logp_N=-rng.exponential(3, tokens).astype(np.float32),
        entropy_NH=rng.random((tokens, temperatures)).astype(np.float32),
        stored_only_because_sampled_N=rng.random(tokens) < 0.3,
        tail_mean_N=np.where(rng.random(tokens) < 0.5, np.nan, -rng.exponential(9, tokens)).astype(np.float32),
    )
    scores = Scores(top=top, tail_samples=tail_samples, student=student, stats=stats)
    prompt = rng.integers(0, vocab, 5).tolist()
    support = [union.tolist() for union in unions]
    rollout = _rollout(f"r{seed}", prompt, completion.tolist(), support)
    return ScoredSequence(rollout=rollout, scores=scores)


def _sequences(count: int, *, vocab: int = 300, temperatures: int = 1, seed: int = 0) -> list[ScoredSequence]:
    return [_sequence(seed * 1000 + i, (i * 3) % 8 + (i % 5 > 0), vocab, temperatures) for i in range(count)]


def _header(
    *, vocab: int = 300, temperatures: int = 1, scorer: str = "scorer-a", codec: str = "sqrt8"
) -> SegmentHeader:
    return SegmentHeader(
        scorer=scorer,
        teacher="teacher-a",
        tokenizer="tokenizer",
        template="",
        engine="transformers",
        dtype="float32",
        vocab_size=vocab,
        temperatures=(1.0, 2.0, 4.0)[:temperatures],
        scoring={"threshold": 0.005, "temperatures": (1.0,)},
        codec=codec,
        codec_config=config_of(CODECS[codec]),
    )


def _ranks(vocab: int = 300) -> NDArray[np.int64]:
    return np.random.default_rng(1).permutation(vocab)


def _write(path: Path, sequences: list[ScoredSequence], **keywords: Any) -> Manifest:
    vocab = keywords.get("vocab", 300)
    return write_segment(path, sequences, _header(**keywords), _ranks(vocab))


def _bytes(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


def _same(left: Scores, right: Scores) -> bool:
    other = arrays_of(right)
    return all(np.array_equal(values, other[name], equal_nan=True) for name, values in arrays_of(left).items())


def _rewritten(segment: Segment, sequences: Iterable[ScoredSequence]) -> list[ScoredSequence]:
    """The sequences with the scores that the segment gives back."""
    return [
        ScoredSequence(rollout=sequence.rollout, scores=scores)
        for sequence, scores in zip(sequences, segment.read(0, len(segment)), strict=True)
    ]


# Round trips


@settings(max_examples=12)
@given(
    seed=st.integers(0, 1000),
    lengths=st.lists(st.integers(0, 6), max_size=5),
    temperatures=st.integers(1, 3),
    vocab=st.sampled_from([300, 70_000]),
    codec=st.sampled_from([*CODECS]),
)
def test_what_was_read_writes_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, seed: int, lengths: list[int], temperatures: int, vocab: int, codec: str
) -> None:
    root = tmp_path_factory.mktemp("warm")
    sequences = [_sequence(seed + i, tokens, vocab, temperatures) for i, tokens in enumerate(lengths)]
    header = {"vocab": vocab, "temperatures": temperatures, "codec": codec}
    cold = _write(root / "cold", sequences, **header)
    warm = _write(root / "warm", _rewritten(Segment.open(root / "cold"), sequences), **header)
    assert warm == cold
    assert _bytes(root / "warm") == _bytes(root / "cold")
    shutil.rmtree(root)


@pytest.mark.parametrize("vocab", [300, 70_000])
@pytest.mark.parametrize("temperatures", [1, 3])
def test_round_trip(tmp_path: Path, vocab: int, temperatures: int) -> None:
    sequences = _sequences(9, vocab=vocab, temperatures=temperatures)
    manifest = _write(tmp_path / "one", sequences, vocab=vocab, temperatures=temperatures)
    segment = Segment.open(tmp_path / "one", expect={"scorer": "scorer-a", "temperatures": manifest.temperatures})
    segment.verify()

    assert segment.manifest == manifest
    assert len(segment) == 9
    assert segment.index.schema.equals(INDEX, check_metadata=True)
    rows = segment.index.to_pylist()
    assert [row["sequence_key"] for row in rows] == [sequence_key(sequence.rollout) for sequence in sequences]
    assert [row["support_key"] for row in rows] == [support_key(sequence.rollout) for sequence in sequences]
    for row in rows:
        named = f"scorer-a/{row['sequence_key']}/{row['support_key']}"
        assert row["score_key"] == hashlib.blake2b(named.encode(), digest_size=16).digest()
    assert [row["ended"] for row in rows] == [sequence.rollout.finished for sequence in sequences]
    for row, (sequence, got) in enumerate(zip(sequences, segment.read(0, 9), strict=True)):
        ids = {"prompt_ids": sequence.rollout.prompt_ids, "completion_ids": sequence.rollout.completion_ids}
        assert segment.tokens(row) == TokenSequence(**ids)
        assert got.top.counts.tolist() == sequence.scores.top.counts.tolist()
        assert sorted(got.top.ids.tolist()) == sorted(sequence.scores.top.ids.tolist())
        assert sorted(got.student.ids.tolist()) == sorted(sequence.scores.student.ids.tolist())
        assert np.array_equal(got.stats.lse_NH, sequence.scores.stats.lse_NH)
        if len(got.top.counts):
            assert rows[row]["mean_entropy"] == pytest.approx(got.stats.entropy_NH[:, 0].mean(), rel=1e-6)
            assert rows[row]["mean_entropy"] == pytest.approx(sequence.scores.stats.entropy_NH[:, 0].mean(), abs=0.04)
            assert rows[row]["teacher_nll"] == pytest.approx(-got.stats.token_logp_N.mean(), rel=1e-6)
            assert rows[row]["mean_tail"] == pytest.approx(got.stats.tail_NH[:, 0].mean(), rel=1e-6)


@pytest.mark.parametrize("codec", CODECS)
def test_any_window_equals_the_whole(tmp_path: Path, codec: str) -> None:
    _write(tmp_path / "one", _sequences(7, temperatures=2), temperatures=2, codec=codec)
    segment = Segment.open(tmp_path / "one")
    whole = segment.read(0, 7)
    for start in range(8):
        for stop in range(start, 8):
            window = segment.read(start, stop)
            assert len(window) == stop - start
            assert all(_same(a, b) for a, b in zip(window, whole[start:stop], strict=True))


def test_agreement_counts_positions_at_which_the_likeliest_token_was_sampled(tmp_path: Path) -> None:
    sequence = _sequence(1, 2, 300, 1)
    top = entries([[7, 8], [7, 8]], np.array([-0.1, -3, -3, -0.1]))
    student = dataclasses.replace(sequence.scores.student, ids=sequence.scores.student.ids + 10)
    scores = dataclasses.replace(sequence.scores, top=top, student=student)
    rollout = dataclasses.replace(sequence.rollout, completion_ids=[7, 7])
    _write(tmp_path / "one", [ScoredSequence(rollout=rollout, scores=scores)])
    assert Segment.open(tmp_path / "one").index["top1_agreement"].to_pylist() == [0.5]


def test_an_empty_segment(tmp_path: Path) -> None:
    manifest = _write(tmp_path / "one", [])
    segment = Segment.open(tmp_path / "one")
    segment.verify()
    assert (manifest.sequences, manifest.positions, len(segment), segment.read(0, 0)) == (0, 0, 0, [])
    assert segment.index.schema.equals(INDEX)


def test_many_chunks_and_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload_module, "_CHUNK", 8)
    monkeypatch.setattr(payload_module, "_SHARD", 32)
    sequences = _sequences(60)
    _write(tmp_path / "sharded", sequences)
    monkeypatch.undo()
    _write(tmp_path / "plain", sequences)
    sharded, plain = Segment.open(tmp_path / "sharded"), Segment.open(tmp_path / "plain")
    assert sum(1 for _ in (tmp_path / "sharded/payload.zarr/head").glob("c.*")) > 3
    for start, stop in ((0, 60), (17, 18), (30, 41)):
        pairs = zip(sharded.read(start, stop), plain.read(start, stop), strict=True)
        assert all(_same(a, b) for a, b in pairs)


def test_any_zarr_reader_opens_the_payload(tmp_path: Path) -> None:
    manifest = _write(tmp_path / "one", _sequences(5))
    group = zarr.open_group(str(tmp_path / "one/payload.zarr"), mode="r")
    assert group["head"].shape == (3, manifest.head_entries)  # type: ignore[union-attr]


def test_zarrs_reads_the_same_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other tests of this file then show that it finds every damage."""
    pytest.importorskip("zarrs", reason="the optional package zarrs is not installed")
    _write(tmp_path / "one", _sequences(9, temperatures=2), temperatures=2)
    fast = Segment.open(tmp_path / "one")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    plain = Segment.open(tmp_path / "one")
    assert "zarrs" in type(fast._payload._arrays["head"]._async_array.codec_pipeline).__module__
    assert "zarrs" not in type(plain._payload._arrays["head"]._async_array.codec_pipeline).__module__
    assert all(_same(a, b) for a, b in zip(fast.read(0, 9), plain.read(0, 9), strict=True))


# Identity


def test_equal_input_gives_equal_bytes_in_another_process(tmp_path: Path) -> None:
    _write(tmp_path / "here", _sequences(6))
    code = "import sys, pathlib, test_store as t; t._write(pathlib.Path(sys.argv[1]), t._sequences(6))"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "there")], check=True, env=_environment())
    assert _bytes(tmp_path / "here") == _bytes(tmp_path / "there")


def test_different_sequences_have_different_keys() -> None:
    rollout = _rollout("a", [1, 2], [3], [[4]])
    assert sequence_key(rollout) == sequence_key(_rollout("b", [1, 2], [3], []))
    assert sequence_key(rollout) != sequence_key(_rollout("a", [1], [2, 3], [[4]]))
    assert support_key(_rollout("a", [1], [2], [])) == support_key(_rollout("b", [9], [8, 7], [[], []]))
    keys = {support_key(_rollout("a", [1], [2, 3], lists)) for lists in ([], [[4], []], [[], [4]], [[4, 5], []])}
    assert len(keys) == 4


# Damage


def _flip(file: Path, rng: random.Random) -> None:
    data = bytearray(file.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(bytes(data))


def _truncate(file: Path, rng: random.Random) -> None:
    os.truncate(file, rng.randrange(file.stat().st_size))


def _remove(file: Path, rng: random.Random) -> None:
    file.unlink()


def _open_and_read(path: Path) -> None:
    segment = Segment.open(path)
    segment.read(0, len(segment))


@pytest.mark.parametrize("damage", [_flip, _truncate, _remove])
def test_damage_in_any_file_is_an_error(tmp_path: Path, damage: Callable[[Path, random.Random], None]) -> None:
    """Reading alone finds it, before `verify`."""
    _write(tmp_path / "one", _sequences(6, temperatures=2), temperatures=2)
    whole, rng = _bytes(tmp_path / "one"), random.Random(3)
    for name, data in whole.items():
        for _ in range(3 if damage is _flip else 1):
            file = tmp_path / "one" / name
            damage(file, rng)
            with pytest.raises(StoreError) as caught:
                _open_and_read(tmp_path / "one")
            assert name.split("/c.")[0] in str(caught.value)
            assert "; " in str(caught.value), "a remedy"
            assert "\n" not in str(caught.value)
            file.write_bytes(data)
    Segment.open(tmp_path / "one").verify()


def test_verify_finds_a_flip_in_a_chunk(tmp_path: Path) -> None:
    _write(tmp_path / "one", _sequences(6))
    segment = Segment.open(tmp_path / "one")
    _flip(tmp_path / "one/payload.zarr/head/c.0.0", random.Random(0))
    with pytest.raises(StoreError, match=r"head/c\.0\.0: expected blake2b"):
        segment.verify()


@pytest.mark.parametrize("shard", [None, 32])
def test_a_chunk_gone_after_opening_is_no_run_of_zeros(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard: int | None
) -> None:
    if shard:
        monkeypatch.setattr(payload_module, "_CHUNK", 8)
        monkeypatch.setattr(payload_module, "_SHARD", shard)
    _write(tmp_path / "one", _sequences(30))
    segment = Segment.open(tmp_path / "one")
    (tmp_path / "one/payload.zarr/head/c.0.0").unlink()
    with pytest.raises(StoreError, match="head"):
        segment.read(0, len(segment))


def test_any_bit_of_a_shard_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload_module, "_CHUNK", 8)
    monkeypatch.setattr(payload_module, "_SHARD", 32)
    _write(tmp_path / "one", _sequences(10))
    segment = Segment.open(tmp_path / "one")
    file = tmp_path / "one/payload.zarr/position/c.0.0"
    data = file.read_bytes()
    for place in random.Random(0).sample(range(len(data)), 25):
        file.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        with pytest.raises(StoreError):
            segment.read(0, len(segment))


def test_a_stray_file_is_an_error(tmp_path: Path) -> None:
    _write(tmp_path / "one", _sequences(2))
    (tmp_path / "one/payload.zarr/head/c.0.1").write_bytes(b"x")
    with pytest.raises(StoreError, match=r"head/c\.0\.1: expected nothing, got a file"):
        Segment.open(tmp_path / "one")


@pytest.mark.parametrize(
    ("field", "expected", "text"),
    [("scorer", "scorer-a", "scorer-b"), ("codec", "topk", "sqrt8"), ("dtype", "bfloat16", "float32")],
)
def test_a_segment_of_another_make_is_refused_naming_both(tmp_path: Path, field: str, expected: str, text: str) -> None:
    _write(tmp_path / "one", _sequences(2), scorer="scorer-b")
    message = rf"manifest.json: expected {field} {expected}, got {field} {text};"
    with pytest.raises(StoreError, match=message):
        Segment.open(tmp_path / "one", expect={"teacher": "teacher-a", field: expected})


def test_another_format_is_refused(tmp_path: Path) -> None:
    _write(tmp_path / "one", _sequences(2))
    file = tmp_path / "one/manifest.json"
    file.write_text(file.read_text(encoding="utf-8").replace("segment/5", "segment/4"), encoding="utf-8")
    with pytest.raises(StoreError, match=r"expected stillroom.segment/5, got stillroom.segment/4"):
        Segment.open(tmp_path / "one")


def test_what_is_no_segment_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(StoreError, match="sealed segment"):
            Segment.open(path)


# Writing whole or not at all


def test_an_existing_segment_stays(tmp_path: Path) -> None:
    first = _write(tmp_path / "one", _sequences(3))
    assert _write(tmp_path / "one", _sequences(3)) == first
    with pytest.raises(StoreError, match=f"got segment {first.segment_id}; remove it"):
        _write(tmp_path / "one", _sequences(4))
    assert Segment.open(tmp_path / "one").manifest == first
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files and directories in turn cannot be synced; only after the rename is the segment there, and whole."""
    fsync, calls, failing = os.fsync, 0, 0

    def fail(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    _write(tmp_path / "0" / "one", _sequences(3))
    last = calls
    assert last > 15
    for failing in (1, 2, 6, 10, last - 3, last - 2, last - 1, last):
        calls, root = 0, tmp_path / str(failing)
        with pytest.raises(OSError, match="No space left"):
            _write(root / "one", _sequences(3))
        assert [path.name for path in root.iterdir()] == (["one"] if failing == last else [])
    Segment.open(root / "one").verify()


def test_a_disk_that_fills_while_zarr_writes_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*arguments: object, **keywords: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(payload_module.LocalStore, "set", full)
    with pytest.raises(OSError, match="No space left"):
        _write(tmp_path / "one", _sequences(3))
    assert list(tmp_path.iterdir()) == []


def _environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    return {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "error"}


_WRITERS = """
import os, sys
from pathlib import Path
import test_store as t

def write():
    store = t.Store(root=Path(sys.argv[1]))
    for seed in range(1000):
        store.publish(t._sequences(6, seed=seed), t._header(), t._ranks())

for _ in range(6):
    if (child := os.fork()) == 0:
        write()
    print(child, flush=True)
    os.waitpid(child, 0)
"""


def test_killed_writers_leave_whole_segments(tmp_path: Path) -> None:
    """Six writers one after the other, each killed at a moment of its own."""
    rng, store = random.Random(5), Store(root=tmp_path)
    _published(store, _sequences(6, seed=3000))
    command = [sys.executable, "-c", _WRITERS, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=_environment(), text=True, encoding="utf-8") as parent:
        assert parent.stdout is not None
        for child in parent.stdout:
            time.sleep(rng.uniform(0.1, 1.0))
            os.kill(int(child), signal.SIGKILL)
    assert parent.returncode == 0
    for path in _segments(store):
        Segment.open(path).verify()

    store.sweep()
    assert _leftovers(tmp_path) == []
    published = _published(store, _sequences(6, seed=2000))
    Segment.open(published).verify()


def _segments(store: Store) -> list[Path]:
    return [path for path in (store.root / "segments").iterdir() if not path.name.startswith(".tmp-")]


def _leftovers(root: Path) -> list[Path]:
    return list(root.rglob(".tmp-*"))


# The store


def _locate(path: Path) -> list[Location]:
    index = Segment.open(path).index
    keys = zip(index["sequence_key"].to_pylist(), index["support_key"].to_pylist(), strict=True)
    return [Location(key=key, segment=path.name, row=row) for row, key in enumerate(keys)]


def _published(store: Store, sequences: list[ScoredSequence]) -> Path:
    path = store.publish(sequences, _header(), _ranks())
    assert path is not None
    return path


def test_publish_names_segments_by_content(tmp_path: Path) -> None:
    store = Store(root=tmp_path)
    first = _published(store, _sequences(3))
    assert _published(store, _sequences(3)) == first
    assert _published(store, _sequences(4)) != first
    assert first.name == Segment.open(first).manifest.segment_id
    assert store.publish([], _header(), _ranks()) is None
    assert len(_segments(store)) == 2
    assert len(list((tmp_path / "ranks").iterdir())) == 1
    assert not (first / "ranks.parquet").exists()
    assert _leftovers(tmp_path) == []


def test_what_is_published_was_measured_and_a_checkouts_copy_does_not_depend_on_it(tmp_path: Path) -> None:
    store, sequences = Store(root=tmp_path), _sequences(9)
    published = Segment.open(_published(store, sequences))
    measured, bounds = published.manifest.measured, published.manifest.error_bounds
    assert measured.positions == published.manifest.positions
    assert 0 < measured.sqrt_p_mean < measured.sqrt_p_max <= bounds["sqrt_p"]
    assert 0 < measured.log_p_max <= bounds["log_p"]
    assert 0 < measured.forward_kl < 0.01
    assert _write(tmp_path / "copy", sequences).measured.positions == 0


def test_a_codec_that_breaks_its_promise_is_not_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CODECS, "sqrt8", _Boaster(levels=128, floor_nats=20.0))
    with pytest.raises(StoreError, match=r"codec sqrt8: expected an error of sqrt_p of at most 0\.001, got 0\.00\d+;"):
        _write(tmp_path / "one", _sequences(9))
    assert list(tmp_path.iterdir()) == []


class _Boaster(Sqrt8):
    """Promises more than it keeps."""

    @property
    def bounds(self) -> ErrorBounds:
        return dataclasses.replace(Sqrt8(levels=self.levels, floor_nats=self.floor_nats).bounds, sqrt_p=0.001)


def test_the_store_reads_a_plan(tmp_path: Path) -> None:
    store = Store(root=tmp_path)
    paths = [_published(store, _sequences(50, seed=seed)) for seed in (1, 2)]
    plan = [location for path in paths for location in _locate(path)]
    random.Random(0).shuffle(plan)
    chosen = plan[:21]
    got = store.read(chosen)
    assert got.keys() == {sequence.key for sequence in chosen}
    for entry in chosen:
        segment = Segment.open(tmp_path / "segments" / entry.segment)
        assert _same(got[entry.key], segment.read(entry.row, entry.row + 1)[0])
    assert store.read([]) == {}


def test_neighbouring_rows_are_read_in_one_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(root=tmp_path)
    plan = _locate(_published(store, _sequences(60)))
    windows, read = [], Segment.read

    def watched(self: Segment, start: int, stop: int) -> list[Scores]:
        windows.append((start, stop))
        return read(self, start, stop)

    monkeypatch.setattr(Segment, "read", watched)
    store.read([*plan[:3], plan[5], *plan[40:42]])
    assert windows == [(0, 6), (40, 42)]


def test_a_vanished_segment_is_left_out(tmp_path: Path) -> None:
    store = Store(root=tmp_path)
    paths = [_published(store, _sequences(3, seed=seed)) for seed in (1, 2)]
    plan = [location for path in paths for location in _locate(path)]
    shutil.rmtree(paths[0])
    assert store.read(plan).keys() == {sequence.key for sequence in plan[3:]}


def test_damaged_ranks_are_an_error_and_the_next_writer_mends_them(tmp_path: Path) -> None:
    store = Store(root=tmp_path)
    path = _published(store, _sequences(3))
    (ranks,) = (tmp_path / "ranks").iterdir()
    _flip(ranks, random.Random(0))
    with pytest.raises(StoreError, match="ranks"):
        Segment.open(path)
    _published(store, _sequences(4))
    Segment.open(path).verify()


def test_two_writers_of_the_same_and_of_different_segments(tmp_path: Path) -> None:
    store, failures = Store(root=tmp_path), []

    def write(seeds: list[int]) -> None:
        try:
            for seed in seeds:
                _published(store, _sequences(3, seed=seed))
        except BaseException as error:
            failures.append(error)

    threads = [Thread(target=write, args=(seeds,)) for seeds in ([1, 2, 3, 4], [1, 2, 5, 4])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(_segments(store)) == 5
    for path in _segments(store):
        Segment.open(path).verify()
    assert _leftovers(tmp_path) == []


def test_sweep_spares_the_living(tmp_path: Path) -> None:
    store, host = Store(root=tmp_path), os.uname().nodename
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = {
        f".tmp-{os.getpid()}-aaaaaaaa-{host}": False,
        f".tmp-{dead.pid}-bbbbbbbb-{host}": True,
        f".tmp-{dead.pid}-cccccccc-another-host": False,
        ".tmp-1-dddddddd-old-host": True,
    }
    for name in names:
        (tmp_path / "segments" / name).mkdir(parents=True)
    os.utime(tmp_path / "segments/.tmp-1-dddddddd-old-host", (0, 0))
    swept = {path.name for path in store.sweep()}
    assert swept == {name for name, goes in names.items() if goes}
    assert {path.name for path in (tmp_path / "segments").iterdir()} == names.keys() - swept


def test_nan_is_never_written(tmp_path: Path) -> None:
    sequence = _sequences(2)[1]
    for name in ("token_logp_N", "tail_NH", "entropy_NH", "lse_NH"):
        nan = np.full_like(getattr(sequence.scores.stats, name), np.nan)
        scores = dataclasses.replace(sequence.scores, stats=dataclasses.replace(sequence.scores.stats, **{name: nan}))
        with pytest.raises(AssertionError, match="NaN among the scores"):
            _write(tmp_path / "segment", [dataclasses.replace(sequence, scores=scores)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("codec", CODECS)
def test_a_position_of_one_possible_token_comes_back_without_nan(tmp_path: Path, codec: str) -> None:
    """The sampled token of the second position is impossible under the teacher."""
    top = entries([[7], [7, 9]], np.array([0.0, 0.0, -np.inf]))
    zero_N, logp_N = np.zeros((2, 1), np.float32), np.array([0.0, -np.inf], np.float32)
    scores = Scores.of_top(top, tail_NH=zero_N, entropy_NH=zero_N, token_logp_N=logp_N)
    _write(tmp_path / "segment", [ScoredSequence(rollout=rollout("r", [7, 9]), scores=scores)], codec=codec)
    (read,) = Segment.open(tmp_path / "segment").read(0, 1)
    second = dict(zip(read.top.ids[1:].tolist(), np.exp(read.top.logp[1:]), strict=True))
    assert second == pytest.approx({7: 1, 9: 0}, abs=1e-8)
    assert np.exp(read.stats.token_logp_N) == pytest.approx([1, 0], abs=1e-8)
    assert not any(np.isnan(a).any() for name, a in arrays_of(read).items() if name != "stats.tail_mean_N")
