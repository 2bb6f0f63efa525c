"""pipeline.store_admin.parquet_rows, intake and export: plain Parquet in, plain Parquet out, and refusals that
name the row."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.types import TokenSequence
from pipeline.runtime.errors import DataError
from pipeline.store.codecs import CODECS
from pipeline.store.ragged import join_scores
from pipeline.store.segment_reader import Segment
from pipeline.store.store import Store
from pipeline.store_admin.export_parquet import export_segment
from pipeline.store_admin.import_parquet import ImportedTeacher, import_parquet, rank_entries
from pipeline.store_admin.integrity import segments
from pipeline.store_admin.parquet_rows import PLAIN, find_parquet
from tests.scores import arrays_of

VOCAB, EOS = 300, 299


def origin(prompt_tokens: int | None = None, teacher: str = "big") -> ImportedTeacher:
    return ImportedTeacher(
        teacher=teacher, tokenizer="t", vocab_size=VOCAB, eos_ids=frozenset({EOS}), prompt_tokens=prompt_tokens
    )


def imported(root: Path, source: Path, p: ImportedTeacher) -> list[Segment]:
    """The segments that a store has after an import."""
    files = find_parquet(source)
    ranks, _ = rank_entries(files, VOCAB)
    list(import_parquet(Store(root=root), files, p, "sqrt8", ranks))
    return [Segment.open(segment) for segment in segments(root)]


def raw(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Rows as DistillKit's `legacy_compressed_logit_schema` types them."""
    kinds = {
        "input_ids": pa.list_(pa.uint64()),
        "token_ids": pa.list_(pa.list_(pa.uint64())),
        "top_values": pa.list_(pa.list_(pa.float32())),
        "labels": pa.list_(pa.int64()),
        "attention_mask": pa.list_(pa.int64()),
    }
    schema = pa.schema([(name, kinds[name]) for name in rows[0]])
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path)
    return path


ROW = {
    "input_ids": [7, 8, 9, 10, EOS],
    "token_ids": [[8, 1], [2, 9], [10, 2], [3, 4]],
    "top_values": [[math.log(p) for p in row] for row in ([0.5, 0.2], [0.6, 0.3], [0.7, 0.1], [0.4, 0.01])],
}
LABELS = {"labels": [-100, -100, 9, 10, EOS]}


def only(root: Path, path: Path, p: ImportedTeacher) -> tuple[Segment, Any]:
    (segment,) = imported(root, path, p)
    (scores,) = segment.read(0, 1)
    return segment, scores


@pytest.mark.parametrize(
    ("extra", "inputs", "last"),
    [(LABELS, None, []), ({}, 2, []), (LABELS, 4, [[5, 6]]), ({"attention_mask": [1] * 5}, 2, [[5, 6]])],
)
def test_row_i_of_raw_top_k_is_the_distribution_of_token_i_plus_one(
    tmp_path: Path, extra: dict[str, Any], inputs: int | None, last: list[list[int]]
) -> None:
    """Labels come before the option; a row more than needed says what would follow and is dropped."""
    row = ROW | extra
    row |= {"token_ids": [*row["token_ids"], *last], "top_values": [*row["top_values"], *([[-1.0, -2.0]] * len(last))]}
    segment, scores = only(tmp_path / "store", raw(tmp_path / "a.parquet", [row]), origin(inputs))
    assert segment.tokens(0) == TokenSequence(prompt_ids=[7, 8], completion_ids=[9, 10, EOS])
    assert scores.top.counts.tolist() == [2, 2, 2]
    assert [set(scores.top.ids[t : t + 2].tolist()) for t in (0, 2, 4)] == [{2, 9}, {10, 2}, {3, 4}]
    assert scores.stats.tail_NH[:, 0] == pytest.approx([0.1, 0.2, 0.59], abs=0.01)
    assert np.exp(scores.stats.token_logp_N) == pytest.approx(
        [0.3, 0.7, 0.01], abs=0.01
    )  # eos is none: the least entry
    (index,) = segment.index.to_pylist()
    assert (index["rollout_id"], index["source"], index["author"], index["ended"]) == ("a/0", "dataset", "", True)
    assert (segment.manifest.engine, segment.manifest.scoring) == ("imported", {"teacher": "big"})


def test_labels_within_a_completion_are_its_mask(tmp_path: Path) -> None:
    segment, scores = only(
        tmp_path / "store", raw(tmp_path / "a.parquet", [ROW | {"labels": [-100, 8, -100, 10, -100]}]), origin()
    )
    mask = [True, False, True, False]
    assert segment.tokens(0) == TokenSequence(prompt_ids=[7], completion_ids=[8, 9, 10, EOS], completion_mask=mask)
    assert [set(scores.top.ids[t : t + 2].tolist()) for t in (0, 2)] == [{8, 1}, {10, 2}]
    (index,) = segment.index.to_pylist()
    assert (index["positions"], index["ended"]) == (2, False)
    assert index["teacher_nll"] == pytest.approx(-(math.log(0.5) + math.log(0.7)) / 2, abs=0.02)

    table = pq.read_table(export_segment(segment.path, tmp_path / "out"))
    assert table.schema.names == [*PLAIN.names, "completion_mask"]
    assert (table["completion_mask"].to_pylist(), len(table["head_ids"][0])) == ([mask], 2)
    (again,) = imported(tmp_path / "again", tmp_path / "out", origin())
    assert again.tokens(0) == segment.tokens(0)
    assert again.index["sequence_key"] == segment.index["sequence_key"]
    assert again.read(0, 1)[0].stats.token_logp_N.tolist() == scores.stats.token_logp_N.tolist()


PLAIN_ROW = {"prompt_ids": [1], "completion_ids": [2, 3], "head_ids": [[4]], "head_logp": [[-0.1]], "tail": [0.1]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"completion_mask": [True]}, "expected 2 in completion_mask, one per completion token, got 1"),
        ({"completion_mask": [True, True]}, "expected 2 in head_ids, one per scored token, got 1"),
        ({"completion_mask": []}, "expected 2 in head_ids, one per scored token, got 1"),
        ({"completion_mask": [False, False]}, "expected a scored token, got a mask of false alone"),
        ({"tail": [math.nan]}, "expected an entry at each position, tails from 0 to 1"),
        ({"token_logp": [math.nan]}, "expected an entry at each position, tails from 0 to 1"),
        ({"head_ids": [[]], "head_logp": [[]]}, "expected an entry at each position, tails from 0 to 1"),
    ],
)
def test_masks_and_numbers_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    row = PLAIN_ROW | {"completion_mask": [False, True], "token_logp": [-1.0]}
    kinds = {name: PLAIN.field(name).type for name in row if name in PLAIN.names}
    schema = pa.schema([*kinds.items(), ("completion_mask", pa.list_(pa.bool_()))])
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([row], schema=schema), path)
    (segment,) = imported(tmp_path / "right", path, origin())
    assert segment.tokens(0).scored_ids == [3]
    pq.write_table(pa.Table.from_pylist([row | changes], schema=schema), path)
    with pytest.raises(DataError) as caught:
        imported(tmp_path / "store", path, origin())
    assert message in str(caught.value)
    assert segments(tmp_path / "store") == []


def test_a_token_that_is_no_entry_is_no_likelier_than_the_tail(tmp_path: Path) -> None:
    row = {"input_ids": [1, 2], "token_ids": [[3]], "top_values": [[math.log(0.99)]], "labels": [-100, 2]}
    _, scores = only(tmp_path / "store", raw(tmp_path / "a.parquet", [row]), origin())
    assert np.sqrt(np.exp(scores.stats.token_logp_N)) == pytest.approx([0.1], abs=CODECS["sqrt8"].bounds.sqrt_p)


def test_padding_is_no_entry_whatever_its_id(tmp_path: Path) -> None:
    token_ids = [[8, 1], [2, 1 << 40], [10, 1 << 40], [3, 4]]
    top_values = [[-1.0, -1.5], [-1.0, -math.inf], [-1.0, -math.inf], [-1.0, -1.5]]
    row = ROW | {"token_ids": token_ids, "top_values": top_values}
    _, scores = only(tmp_path / "store", raw(tmp_path / "a.parquet", [row]), origin(2))
    assert scores.top.counts.tolist() == [1, 1, 2]
    assert sorted(scores.top.ids.tolist()) == [2, 3, 4, 10]


def test_frequent_entries_get_small_ranks_over_all_files(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, entries in (("a", [[5, 6], [5, 7], [5, 8], [5, 9]]), ("b", [[6, 5], [6, 5], [6, 5], [6, 4]])):
        raw(tmp_path / f"in/{name}.parquet", [ROW | LABELS | {"token_ids": entries}])
    ranks, rows = rank_entries(find_parquet(tmp_path / "in"), VOCAB)
    assert (ranks[:3].tolist(), rows) == ([5, 6, 4], 2)
    assert sorted(ranks.tolist()) == list(range(VOCAB))
    assert len(imported(tmp_path / "store", tmp_path / "in", origin())) == 2


def test_the_same_files_again_add_nothing_and_another_teacher_does(tmp_path: Path) -> None:
    path = raw(tmp_path / "a.parquet", [ROW | LABELS])
    first = imported(tmp_path / "store", path, origin())
    assert [segment.path for segment in imported(tmp_path / "store", path, origin())] == [
        segment.path for segment in first
    ]
    scorers = {segment.manifest.scorer for segment in imported(tmp_path / "store", path, origin(teacher="other"))}
    assert len(scorers) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "row 0: expected labels, or the prompt's length, got neither; add labels"),
        ({"labels": [8, -100, -100, -100, -100]}, "expected a prompt and then a completion, got 5 tokens, 1 of them"),
        ({"labels": [-100] * 5}, "expected a prompt and then a completion, got 5 tokens, 0 of them"),
        (LABELS | {"token_ids": [[1, 2]] * 2, "top_values": [[-1.0, -2.0]] * 2}, "row 0: expected 5 in token_ids, one"),
        (LABELS | {"attention_mask": [1, 1, 2, 2, 2]}, "got an attention_mask that is not all 1; undo the packing"),
        (LABELS | {"top_values": [[3.0, 9.0]] * 4}, "add up to at most 1, got a sum of 8.12e"),
        (LABELS | {"top_values": [[math.nan, -1.0]] * 4}, "add up to at most 1, got a sum of nan"),
        (LABELS | {"token_ids": [[1, 1]] * 4}, "row 0: expected distinct tokens at a position, got one twice"),
        (LABELS | {"token_ids": [[1, VOCAB]] * 4}, "expected token ids below 300, the tokenizer's size, got 1 to 300"),
        (LABELS | {"input_ids": [7, 8, 9, 10, VOCAB]}, "row 0: expected token ids below 300"),
        (LABELS | {"top_values": [[-1.0]] * 4}, "top_values: expected a number for each of token_ids, got other len"),
        (LABELS | {"top_values": [None, [-1.0, -2.0]]}, "top_values: expected no nulls, got 1; drop those rows"),
    ],
)
def test_what_is_no_distribution_is_refused_with_its_row(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = raw(tmp_path / "a.parquet", [ROW | changes])
    with pytest.raises(DataError) as caught:
        imported(tmp_path / "store", path, origin())
    assert message in str(caught.value)
    assert segments(tmp_path / "store") == []


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            ["input_ids", "compressed_logprobs", "bytepacked_indices"],
            "got DistillKit's bit-packed form; unpack it",
        ),
        (["input_ids", "packed_indices", "exact_values", "coeffs"], "got DistillKit's bit-packed form; unpack it"),
        (["text"], "expected columns input_ids, token_ids, top_values, or those of stillroom.plain/1, got text; "),
    ],
)
def test_other_columns_are_refused_with_what_to_do(tmp_path: Path, columns: list[str], message: str) -> None:
    pq.write_table(pa.table({name: [1] for name in columns}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=message):
        rank_entries([tmp_path / "a.parquet"], VOCAB)


def test_export_and_import_give_the_same_entries(tmp_path: Path) -> None:
    """Also the bytes: encoding what was decoded changes nothing. 600 rows are several windows."""
    generator = np.random.default_rng(0)
    rows = [random_row(generator, int(length)) for length in generator.integers(3, 9, 600)]
    originals = imported(tmp_path / "store", raw(tmp_path / "a.parquet", rows), origin())
    out = tmp_path / "out"
    written = [export_segment(original.path, out) for original in originals]
    assert sorted(out.iterdir()) == sorted(written)
    again = imported(tmp_path / "again", out, origin())
    first, other = (
        {row["sequence_key"]: row | scores for row, scores in sequences(part)} for part in (originals, again)
    )
    assert first.keys() == other.keys()
    assert len(first) == 600
    for key, row in first.items():
        for name in ("rollout_id", "prompt_id", "source", "author", "ended", "mean_tail", "teacher_nll"):
            assert row[name] == other[key][name]
        for name in ("top.ids", "top.logp", "top.counts", "stats.tail_NH", "stats.token_logp_N"):
            assert by_id(row, name) == by_id(other[key], name)


def random_row(generator: np.random.Generator, length: int) -> dict[str, Any]:
    counts = generator.integers(1, 6, length - 1)
    return {
        "input_ids": generator.integers(0, VOCAB, length).tolist(),
        "token_ids": [generator.choice(VOCAB, count, replace=False).tolist() for count in counts],
        "top_values": [np.log(generator.dirichlet(np.ones(count + 1))[:-1]).tolist() for count in counts],
        "labels": [-100, *([1] * (length - 1))],
    }


def sequences(part: Sequence[Segment]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    results = []
    for segment in part:
        for row, scores in zip(segment.index.to_pylist(), segment.read(0, len(segment)), strict=True):
            fields = ("top.ids", "top.logp", "top.counts", "stats.tail_NH", "stats.token_logp_N")
            results.append((row, {name: arrays_of(scores)[name] for name in fields}))
    return results


def by_id(row: dict[str, Any], name: str) -> list[Any]:
    """A field's values, those of entries in the order of (position, id): ranks differ between the two stores."""
    values: np.ndarray = row[name]
    if name in ("top.ids", "top.logp"):
        counts = row["top.counts"]
        values = values[np.lexsort([row["top.ids"], np.repeat(np.arange(len(counts)), counts)])]
    return values.tolist()


def test_an_exported_file_holds_what_the_segment_decodes_to(tmp_path: Path) -> None:
    rows = [ROW | LABELS, ROW | {"labels": [-100, 8, 9, 10, EOS]}]
    (segment,) = imported(tmp_path / "store", raw(tmp_path / "a.parquet", rows), origin())
    table = pq.read_table(export_segment(segment.path, tmp_path / "out"))
    assert (table.schema.names, table.schema.metadata) == (PLAIN.names, PLAIN.metadata)
    scores = join_scores(segment.read(0, 2), 1)
    for name, values in {
        "head_ids": scores.top.ids,
        "head_logp": scores.top.logp,
        "tail": scores.stats.tail_NH[:, 0],
        "token_logp": scores.stats.token_logp_N,
    }.items():
        column = table[name].combine_chunks().flatten()
        flat = column.flatten() if name.startswith("head") else column
        assert flat.to_numpy().tolist() == values.tolist()
    assert table["completion_ids"].to_pylist() == [[9, 10, EOS], [8, 9, 10, EOS]]
    assert [len(row) for row in table["head_ids"].to_pylist()] == [3, 4]
