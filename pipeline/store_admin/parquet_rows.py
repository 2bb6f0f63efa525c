"""Scores as plain Parquet, one row per sequence, in two layouts: `stillroom store export` writes the first, PLAIN.

PLAIN: row t of the last four columns is the teacher's distribution of completion token t. `head_ids` are the top tokens
and `head_logp` their natural log-probs at temperature 1, `tail` is the mass outside them, and `token_logp` the log-prob
of the completion token. Tail samples, student-support tokens and other temperatures are not exported. Where others
wrote tokens of a completion, the column `completion_mask` is false at these tokens, which have no row; an empty list is
a completion without such tokens.

Raw top-k, as DistillKit writes it (https://github.com/arcee-ai/DistillKit, `token_ids` and `top_values` of
LogprobCompressor.decompress_to_sparse): `input_ids` [L] is prompt and completion in one, and row i of `token_ids`
and `top_values` is the distribution of token i + 1. So there are L - 1 rows, or L if the last one is the distribution
after the end. Entries of -inf are padding. `labels` [L], if there is such a column, is negative at the prompt's tokens,
and at tokens of the completion that others wrote.

Reading:
* The layout is recognised by the columns.
* A row has as many lists as its completion has scored tokens. Every other requirement of a layout is checked, with the
  row's number in the message. `pipeline.store_admin.import_parquet` checks that the numbers are distributions.

Array suffixes: see `pipeline.core.types`.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.runtime.errors import DataError

PLAIN = pa.schema(
    [
        pa.field("sequence_key", pa.string(), nullable=False),
        pa.field("rollout_id", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("author", pa.string(), nullable=False),
        pa.field("prompt_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("completion_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("head_ids", pa.list_(pa.list_(pa.int32())), nullable=False),
        pa.field("head_logp", pa.list_(pa.list_(pa.float32())), nullable=False),
        pa.field("tail", pa.list_(pa.float32()), nullable=False),
        pa.field("token_logp", pa.list_(pa.float32()), nullable=False),
    ],
    metadata={"schema": "stillroom.plain/1"},
)

RAW_TOPK = ("input_ids", "token_ids", "top_values")
PACKED_TOPK = ("compressed_logprobs", "packed_indices")  # columns of DistillKit's bit-packed forms, which are refused

ROWS = 256  # that are read at a time; also the rows of a file that DistillKit writes
_HEAD, _TOP = ("head_ids", "head_logp"), ("token_ids", "top_values")  # the columns of entries in either layout
_INTS, _FLOATS, _FLAGS = pa.list_(pa.int64()), pa.list_(pa.float32()), pa.list_(pa.bool_())
_NAMES: dict[str, Any] = dict.fromkeys(("rollout_id", "prompt_id", "source", "author"), pa.string())
# The types of the other columns that are read.
_KINDS: dict[tuple[str, str], dict[str, Any]] = {
    _HEAD: {"prompt_ids": _INTS, "completion_ids": _INTS, "tail": _FLOATS, "token_logp": _FLOATS, **_NAMES}
    | {"completion_mask": _FLAGS},
    _TOP: {"input_ids": _INTS, "labels": _INTS, "attention_mask": _INTS, **_NAMES},
}
_DEFAULTS: dict[str, Any] = {"source": "dataset", "author": "", "tail": None, "token_logp": None, "completion_mask": []}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainRow:
    """One sequence of either layout."""

    where: str
    columns: dict[str, Any]  # the columns of PLAIN without entries; None for a missing `tail` or `token_logp`
    ids: NDArray[np.int64]  # [E]
    logp: NDArray[np.float32]  # [E]
    owner: NDArray[np.int64]  # [E] the position of each entry


def find_parquet(source: Path) -> list[Path]:
    """Return a Parquet file, or the Parquet files of a directory."""
    return [source] if source.suffix == ".parquet" else sorted(source.glob("*.parquet"))


def read_rows(path: Path, prompt_tokens: int | None) -> Iterator[list[PlainRow]]:
    """Yield the rows of a file, ROWS at a time.

    Args:
        path: The file.
        prompt_tokens: The length of the prompts, for raw top-k without labels.

    Raises:
        DataError: The file or a row is not as a layout requires.
    """
    with _open(path) as file:
        names = file.schema_arrow.names
        entries = _entry_columns(names, path)
        kinds = {name: kind for name, kind in _KINDS[entries].items() if name in names}
        number = itertools.count()
        for batch in file.iter_batches(ROWS, columns=[*kinds, *entries]):
            records = pa.table({name: _cast(batch, name, kind, path) for name, kind in kinds.items()}).to_pylist()
            rows = zip(records, number, *_entries(batch, entries, path), strict=False)  # `number` is endless
            yield [_row(record, ids.values, logp.values, prompt_tokens, path, row) for record, row, ids, logp in rows]


def read_entry_ids(path: Path) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Yield the token ids of all entries and the number of rows, ROWS at a time.

    Raises:
        DataError: The file is not as a layout requires.
    """
    with _open(path) as file:
        names = _entry_columns(file.schema_arrow.names, path)
        for batch in file.iter_batches(ROWS, columns=list(names)):
            ids, logp = (column.flatten().flatten().to_numpy() for column in _entries(batch, names, path))
            yield ids[logp != -np.inf], len(batch)


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        first = str(error).splitlines()[0]
        raise DataError(path, expected="a Parquet file", got=first, remedy="correct the path") from error


def _entry_columns(names: Sequence[str], path: Path) -> tuple[str, str]:
    """Return the columns of ids and log-probs, which differ by layout; raise a DataError for any other layout."""
    if {"prompt_ids", "completion_ids", *_HEAD} <= set(names):
        return _HEAD
    if set(RAW_TOPK) <= set(names):
        return _TOP
    if set(PACKED_TOPK) & set(names):
        remedy = "unpack it with DistillKit's LogprobCompressor.decompress_to_sparse into token_ids and top_values"
        raise DataError(path, expected="log-probs in columns", got="DistillKit's bit-packed form", remedy=remedy)
    raise DataError(
        path,
        expected=f"columns {', '.join(RAW_TOPK)}, or those of {PLAIN.metadata[b'schema'].decode()}",
        got=", ".join(names),
        remedy="rename or add columns; pipeline/store_admin/parquet_rows.py describes them",
    )


def _row(record: dict[str, Any], ids: Any, logp: Any, prompt_tokens: int | None, path: Path, row: int) -> PlainRow:
    """Return one row of either layout; `ids` and `logp` are Arrow arrays with a list of entries per position."""
    where, name = f"{path}, row {row}", f"{path.stem}/{row}"
    columns = {"rollout_id": name, "prompt_id": name, **_DEFAULTS, **record}
    if "input_ids" in record:
        prompt, mask = _split(record, len(ids), prompt_tokens, where)
        columns |= {"prompt_ids": record["input_ids"][:prompt], "completion_ids": record["input_ids"][prompt:]}
        columns["completion_mask"] = mask
        ids, logp = (part.slice(prompt - 1, len(mask)).filter(pa.array(mask)) for part in (ids, logp))
    tokens, mask = len(columns["completion_ids"]), columns["completion_mask"]
    _check_length(len(mask), {0, tokens}, "in completion_mask, one per completion token", where)
    if mask and not any(mask):
        raise DataError(where, expected="a scored token", got="a mask of false alone", remedy="drop the row")
    lengths = {"head_ids": len(ids)} | {name: len(record[name]) for name in ("tail", "token_logp") if name in record}
    for name, length in lengths.items():
        _check_length(length, {sum(mask) if mask else tokens}, f"in {name}, one per scored token", where)
    ids_E, logp_E, owner_E = (part.to_numpy() for part in (ids.flatten(), logp.flatten(), pc.list_parent_indices(ids)))
    entries = logp_E != -np.inf  # the others are padding, which may have any id
    return PlainRow(where=where, columns=columns, ids=ids_E[entries], logp=logp_E[entries], owner=owner_E[entries])


def _split(record: dict[str, Any], rows: int, prompt_tokens: int | None, where: str) -> tuple[int, list[bool]]:
    """Return the number of prompt tokens, at least one, because nothing predicts the first token; and the mask."""
    labels, length = record.get("labels"), len(record["input_ids"])
    _check_length(rows, {length - 1, length}, "in token_ids, one per token after the first", where)
    if any(flag != 1 for flag in record.get("attention_mask", [])):
        got, remedy = "an attention_mask that is not all 1", "undo the packing or the padding"
        raise DataError(where, expected="one text", got=got, remedy=remedy)
    if labels is None and prompt_tokens is None:
        remedy = "add labels (negative at the prompt), or give --prompt-tokens (1: the whole text is the completion)"
        raise DataError(where, expected="labels, or the prompt's length", got="neither", remedy=remedy)
    trained_L = (
        [t >= (prompt_tokens or 0) for t in range(length)] if labels is None else [label >= 0 for label in labels]
    )
    prompt = max(1, trained_L.index(True)) if True in trained_L else length
    if len(trained_L) != length or not any(trained_L[prompt:]):
        got = f"{length} tokens, {sum(trained_L)} of them to train on, from token {prompt} on"
        raise DataError(where, expected="a prompt and then a completion", got=got, remedy="drop the row")
    return prompt, trained_L[prompt:]


def _entries(batch: pa.RecordBatch, names: tuple[str, str], path: Path) -> tuple[Any, Any]:
    """Return the columns of ids and log-probs: for each row a list of positions, and for each position its entries."""
    ids, logp = (_cast(batch, name, pa.list_(kind), path) for name, kind in zip(names, (_INTS, _FLOATS), strict=True))
    for id_lists, logp_lists in ((ids, logp), (ids.flatten(), logp.flatten())):
        if not id_lists.value_lengths().equals(logp_lists.value_lengths()):
            where, remedy = f"{path}, {names[1]}", "write them again"
            raise DataError(where, expected=f"a number for each of {names[0]}", got="other lengths", remedy=remedy)
    return ids, logp


def _cast(batch: pa.RecordBatch, name: str, kind: Any, path: Path) -> Any:
    """Return a column as `kind`; raise a DataError if it contains nulls or other values."""
    try:
        column: Any = batch.column(name).cast(kind)
        part = column
        nulls = part.null_count
        while pa.types.is_list(part.type):
            part = part.flatten()
            nulls += part.null_count
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        got = str(error).splitlines()[0]
        raise DataError(f"{path}, {name}", expected=str(kind), got=got, remedy="convert it") from error
    if nulls:
        raise DataError(f"{path}, {name}", expected="no nulls", got=f"{nulls}", remedy="drop those rows")
    return column


def _check_length(got: int, expected: set[int], what: str, where: str) -> None:
    if got not in expected:
        raise DataError(where, expected=f"{max(expected)} {what}", got=f"{got}", remedy="write the row anew")
