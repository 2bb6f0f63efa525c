"""Read rows of plain Parquet with truncated scores, in either layout of `pipeline.store_admin.parquet_layout`.

* The layout is recognised by the columns.
* A row has as many lists as its completion has tokens. Every other requirement of a layout is checked, with the row's
  number in the message. `pipeline.store_admin.import_parquet` checks that the numbers are distributions.

Array suffixes: see `pipeline.core.types`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.runtime.errors import DataError
from pipeline.store_admin.parquet_layout import PACKED_TOPK, PLAIN, RAW_TOPK

ROWS = 256  # that are read at a time; also the rows of a file that DistillKit writes
_HEAD, _TOP = ("head_ids", "head_logp"), ("token_ids", "top_values")
_KINDS: dict[str, Any] = {
    **dict.fromkeys(("prompt_ids", "completion_ids", "input_ids", "labels", "attention_mask"), pa.list_(pa.int64())),
    **dict.fromkeys(("tail", "token_logp"), pa.list_(pa.float32())),
    **dict.fromkeys(("rollout_id", "prompt_id", "source", "author"), pa.string()),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainRow:
    """One sequence of either layout."""

    where: str
    named: dict[str, Any]  # rollout_id, prompt_id, source, policy
    prompt_ids: list[int]
    completion_ids: list[int]
    ids: NDArray[np.int64]  # [E]
    logp: NDArray[np.float32]  # [E]
    counts: NDArray[np.int64]  # [N]
    tail: list[float] | None
    token_logp: list[float] | None


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
        plain = _is_plain(names, path)
        row = 0
        for batch in file.iter_batches(ROWS, columns=sorted({*_KINDS, *_HEAD, *_TOP} & set(names))):
            yield list(_plain_rows(batch, path, row) if plain else _raw_rows(batch, prompt_tokens, path, row))
            row += len(batch)


def read_entry_ids(path: Path) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Yield the token ids of all entries and the number of rows, ROWS at a time.

    Raises:
        DataError: The file is not as a layout requires.
    """
    with _open(path) as file:
        names = _HEAD if _is_plain(file.schema_arrow.names, path) else _TOP
        for batch in file.iter_batches(ROWS, columns=list(names)):
            yield _Entries.of(batch, names, path).ids, len(batch)


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        first = str(error).splitlines()[0]
        raise DataError(path, expected="a Parquet file", got=first, remedy="correct the path") from error


def _is_plain(names: Sequence[str], path: Path) -> bool:
    """Return true for PLAIN and false for raw top-k; raise a DataError for any other layout."""
    if {"prompt_ids", "completion_ids", *_HEAD} <= set(names):
        return True
    if set(RAW_TOPK) <= set(names):
        return False
    if set(PACKED_TOPK) & set(names):
        remedy = "unpack it with DistillKit's LogprobCompressor.decompress_to_sparse into token_ids and top_values"
        raise DataError(path, expected="log-probs in columns", got="DistillKit's bit-packed form", remedy=remedy)
    raise DataError(
        path,
        expected=f"columns {', '.join(RAW_TOPK)}, or those of {PLAIN.metadata[b'schema'].decode()}",
        got=", ".join(names),
        remedy="rename or add columns; pipeline/store_admin/parquet_layout.py describes them",
    )


def _plain_rows(batch: pa.RecordBatch, path: Path, first_row: int) -> Iterator[PlainRow]:
    entries = _Entries.of(batch, _HEAD, path)
    optional = [name for name in ("tail", "token_logp") if name in batch.schema.names]
    for b, record in enumerate(_records(batch, path)):
        where, positions = f"{path}, row {first_row + b}", len(record["completion_ids"])
        first, last = entries.outer[b : b + 2]
        for name, length in ({"head_ids": last - first} | {name: len(record[name]) for name in optional}).items():
            _check_length(length, {positions}, f"in {name}, one per completion token", where)
        yield PlainRow(
            where=where,
            named=_named(record, path, first_row + b),
            prompt_ids=record["prompt_ids"],
            completion_ids=record["completion_ids"],
            **entries.between(first, last),
            tail=record.get("tail"),
            token_logp=record.get("token_logp"),
        )


def _raw_rows(batch: pa.RecordBatch, prompt_tokens: int | None, path: Path, first_row: int) -> Iterator[PlainRow]:
    entries = _Entries.of(batch, _TOP, path)
    for b, record in enumerate(_records(batch, path)):
        where, ids = f"{path}, row {first_row + b}", record["input_ids"]
        first, last = entries.outer[b : b + 2]
        _check_length(last - first, {len(ids) - 1, len(ids)}, "in token_ids, one per token after the first", where)
        if any(flag != 1 for flag in record.get("attention_mask", [])):
            got, remedy = "an attention_mask that is not all 1", "undo the packing or the padding"
            raise DataError(where, expected="one text", got=got, remedy=remedy)
        prompt = _prompt_tokens(record.get("labels"), len(ids), prompt_tokens, where)
        yield PlainRow(
            where=where,
            named=_named(record, path, first_row + b),
            prompt_ids=ids[:prompt],
            completion_ids=ids[prompt:],
            **entries.between(first + prompt - 1, first + len(ids) - 1),
            tail=None,
            token_logp=None,
        )


def _prompt_tokens(labels: list[int] | None, length: int, prompt_tokens: int | None, where: str) -> int:
    """Return the number of prompt tokens, at least one, because nothing predicts the first token."""
    if labels is None and prompt_tokens is None:
        remedy = "add labels (negative at the prompt), or give --prompt-tokens (1: the whole text is the completion)"
        raise DataError(where, expected="labels, or the prompt's length", got="neither", remedy=remedy)
    trained_L = (
        [t >= (prompt_tokens or 0) for t in range(length)] if labels is None else [label >= 0 for label in labels]
    )
    prompt = max(1, trained_L.index(True)) if True in trained_L else length
    if len(trained_L) != length or prompt >= length or not all(trained_L[prompt:]):
        got = f"{length} tokens, {sum(trained_L)} of them to train on, from token {prompt} on"
        raise DataError(where, expected="a prompt and then a completion", got=got, remedy="cut, split or drop the row")
    return prompt


def _named(record: dict[str, Any], path: Path, row: int) -> dict[str, Any]:
    name = f"{path.stem}/{row}"
    return {
        "rollout_id": record.get("rollout_id", name),
        "prompt_id": record.get("prompt_id", name),
        "source": record.get("source", "dataset"),
        "policy": record.get("author", ""),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entries:
    """Two columns of lists of lists as flat arrays."""

    outer: NDArray[Any]  # [B + 1] offsets of positions
    inner: NDArray[Any]  # [N + 1] offsets of entries
    ids: NDArray[np.int64]
    logp: NDArray[np.float32]

    @classmethod
    def of(cls, batch: pa.RecordBatch, names: tuple[str, str], path: Path) -> "_Entries":
        """Return the entries without padding, which may have any id."""
        outer, inner, ids = _nested(batch, names[0], pa.int64(), path)
        _, logp_inner, logp = _nested(batch, names[1], pa.float32(), path)
        if not np.array_equal(inner, logp_inner):
            where, remedy = f"{path}, {names[1]}", "write them again"
            raise DataError(where, expected=f"a number for each of {names[0]}", got="other lengths", remedy=remedy)
        real_E = logp != -np.inf
        return cls(outer=outer, inner=np.append(0, np.cumsum(real_E))[inner], ids=ids[real_E], logp=logp[real_E])

    def between(self, first: int, last: int) -> dict[str, Any]:
        """Return the entries of positions [first, last)."""
        span = slice(self.inner[first], self.inner[last])
        return {"ids": self.ids[span], "logp": self.logp[span], "counts": np.diff(self.inner[first : last + 1])}


def _nested(batch: pa.RecordBatch, name: str, kind: Any, path: Path) -> tuple[Any, Any, Any]:
    """Return a column of lists of lists as offsets of rows, offsets of positions (both from 0), and values."""
    lists = _cast(batch, name, pa.list_(pa.list_(kind)), path)
    positions = lists.flatten()
    outer, inner = (array.offsets.to_numpy() for array in (lists, positions))
    return outer - outer[0], inner - inner[0], positions.flatten().to_numpy()


def _records(batch: pa.RecordBatch, path: Path) -> list[dict[str, Any]]:
    """Return the columns that have no entries, row by row."""
    columns = {name: _cast(batch, name, kind, path) for name, kind in _KINDS.items() if name in batch.schema.names}
    return pa.RecordBatch.from_pydict(columns).to_pylist()


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
