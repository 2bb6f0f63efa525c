"""`stillroom query`: SQL views over the files that a run and the store leave.

Guarantee: nothing is written and nothing is kept. The database lives in memory, its views name the files that exist
now, and a view without files is empty with the columns it would have. `student` and `round` are the directories a file
lies in; what all students share has student '' and round 'corpus'. Per-token quantities are means in nats a token.
Cost: some ten milliseconds and what the question reads; no stage imports this module, so a new view reruns nothing.
Not taken: tables of results kept up to date by the stages, which a killed stage would leave behind the files.
"""

from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from pipeline.runtime.errors import UserError
from pipeline.runtime.files import visible_files
from schemas.comparison import COMPARISON
from schemas.prompt import PROMPT
from schemas.rollout import ROLLOUT
from schemas.segment import INDEX, INDEXES

_RUNS_FIELDS: list[Any] = [
    ("student", pa.string()),
    ("round", pa.string()),
    ("step", pa.int64()),
    ("loss", pa.float64()),
    ("compared_tokens", pa.int64()),
    *((name, pa.float64()) for name in ("staleness_kl", "effective_share", "clipped_share", "truncated_share")),
]
RUNS = pa.schema(_RUNS_FIELDS)
_COST_FIELDS: list[Any] = [
    ("tokens", pa.int64()),
    ("seconds", pa.float64()),
    ("positions", pa.int64()),
    ("positions_reused", pa.int64()),
    ("payload_bytes", pa.int64()),
    ("steps", pa.int64()),
    ("steps_not_taken", pa.int64()),
]
_FILENAME = pa.field("filename", pa.string())
_COST_FILES = pa.schema(_COST_FIELDS).append(_FILENAME)
_TIME_FIELDS: list[Any] = [("filename", pa.string()), ("last_modified", pa.timestamp("us", tz="UTC"))]
_TIMES = pa.schema(_TIME_FIELDS)

_MANIFEST_FIELDS: list[Any] = [
    *((name, pa.string()) for name in ("scorer", "teacher", "tokenizer", "engine", "dtype", "codec")),
    *((name, pa.int64()) for name in ("sequences", "positions", "head_entries", "draws", "union_entries")),
    ("measured", pa.struct([("positions", pa.int64()), ("forward_kl", pa.float64())])),
    ("files", pa.map_(pa.string(), pa.struct([("size_bytes", pa.int64())]))),
]
_MANIFESTS = pa.schema(_MANIFEST_FIELDS).append(_FILENAME)

_PARQUET = "read_parquet(%s, filename = true)"
_CSV = """(SELECT * FROM no_runs UNION ALL BY NAME SELECT * FROM read_csv(%s, union_by_name = true,
    types = {'student': 'VARCHAR', 'round': 'VARCHAR', 'step': 'BIGINT', 'loss': 'DOUBLE'}))"""
_JSON = """read_json(%s, filename = true, columns = {'tokens': 'BIGINT', 'seconds': 'DOUBLE', 'positions': 'BIGINT',
    'positions_reused': 'BIGINT', 'payload_bytes': 'BIGINT', 'steps': 'BIGINT', 'steps_not_taken': 'BIGINT'})"""
_MANIFEST = """read_json(%s, filename = true, columns = {'scorer': 'VARCHAR', 'teacher': 'VARCHAR',
    'tokenizer': 'VARCHAR', 'engine': 'VARCHAR', 'dtype': 'VARCHAR', 'codec': 'VARCHAR', 'sequences': 'BIGINT',
    'positions': 'BIGINT', 'head_entries': 'BIGINT', 'draws': 'BIGINT', 'union_entries': 'BIGINT',
    'measured': 'STRUCT(positions BIGINT, forward_kl DOUBLE)', 'files': 'MAP(VARCHAR, STRUCT(size_bytes BIGINT))'})"""
# Columns student and round, of files work/STUDENT/ROUND/... and work/corpus/...; {start}: what follows work/ in a name.
_PLACED = """
    SELECT * EXCLUDE (place),
        CASE WHEN place[1] = 'corpus' THEN '' ELSE place[1] END AS student,
        CASE WHEN place[1] = 'corpus' THEN 'corpus' ELSE place[2] END AS round
    FROM (SELECT *, string_split(substr(filename, {start}), '/') AS place FROM {files})
"""
# One row a segment of the store: how old it is, and whether a score of this run lies in it too.
_AGES = """
    SELECT split_part(filename, '/', -2) AS segment,
        last_modified AT TIME ZONE 'UTC' AS written,
        round((epoch(now()) - epoch(last_modified)) / 3600, 3) AS age_hours,
        count(*) AS sequences,
        sum(positions)::BIGINT AS positions,
        bool_or(score_key IN (SELECT score_key FROM scores)) AS used
    FROM store JOIN store_times USING (filename)
    GROUP BY filename, last_modified
"""
# One row a rollouts file: how many have a score in this run's segments, and how many of those the store knows.
_COVERAGE = """
    SELECT student, round,
        count(*) AS rollouts,
        count(score_key) AS scored,
        count(*) FILTER (score_key IN (SELECT score_key FROM store)) AS stored
    FROM rollouts LEFT JOIN scores USING (student, round, rollout_id)
    GROUP BY student, round
"""
# One row a round, source and measure (tail, entropy): mean and quantiles of the sequences' means, by positions.
_TAILS = """
    WITH measured AS (
        UNPIVOT (
            SELECT student, round, source, positions, mean_tail AS tail, mean_entropy AS entropy
            FROM scores WHERE positions > 0
        ) ON tail, entropy INTO NAME measure VALUE value
    ), ranked AS (
        SELECT *, sum(positions) OVER (PARTITION BY student, round, source, measure ORDER BY value)
            / sum(positions) OVER (PARTITION BY student, round, source, measure) AS share_up_to
        FROM measured
    )
    SELECT student, round, source, measure,
        count(*) AS sequences,
        sum(positions)::BIGINT AS positions,
        sum(value * positions) / sum(positions) AS mean,
        min(value) FILTER (share_up_to >= 0.5) AS p50,
        min(value) FILTER (share_up_to >= 0.9) AS p90
    FROM ranked GROUP BY student, round, source, measure
"""
# One row a scored rollout of a student: how much likelier its tokens were to their author than to the teacher.
_DISAGREEMENT = """
    SELECT student, round, prompt_id, rollout_id, positions,
        list_avg(behaviour_logp) AS student_logp,
        -teacher_nll::DOUBLE AS teacher_logp,
        student_logp - teacher_logp AS gap,
        top1_agreement
    FROM rollouts JOIN (
        SELECT student, round, rollout_id, positions, teacher_nll, top1_agreement FROM scores
    ) USING (student, round, rollout_id)
    WHERE source = 'student' AND positions > 0
"""
# One row a stage that ran: work/costs/[STUDENT-][ROUND-]STAGE.json, where no student's name has a hyphen.
_COSTS = """
    WITH named AS (
        SELECT *, string_split(parse_filename(filename, true), '-') AS name FROM costs_files
    )
    SELECT name[-1] AS stage,
        CASE WHEN len(name) = 1 OR name[1] IN ('teacher', 'corpus') THEN '' ELSE name[1] END AS student,
        CASE WHEN name[1] IN ('generate', 'corpus') THEN 'corpus' WHEN student = '' THEN '' ELSE name[2] END AS round,
        tokens, seconds, positions, positions_reused, payload_bytes, steps, steps_not_taken
    FROM named
"""
# One row a round: what each kind of stage took; the corpus is written by `generate`, the rounds by `rollout`.
_ROUNDS_COST = """
    SELECT student, round,
        sum(seconds) AS seconds,
        sum(seconds) FILTER (stage IN ('rollout', 'generate')) AS rollout_seconds,
        sum(seconds) FILTER (stage = 'score') AS score_seconds,
        sum(seconds) FILTER (stage = 'train') AS train_seconds,
        sum(seconds) FILTER (stage = 'evaluate') AS evaluate_seconds,
        sum(tokens) FILTER (stage IN ('rollout', 'generate'))::BIGINT AS rollout_tokens,
        sum(tokens) FILTER (stage = 'score')::BIGINT AS score_tokens,
        sum(tokens) FILTER (stage = 'train')::BIGINT AS train_tokens,
        sum(tokens) FILTER (stage = 'evaluate')::BIGINT AS evaluate_tokens,
        sum(positions - positions_reused)::BIGINT AS positions_scored,
        sum(positions_reused)::BIGINT AS positions_reused
    FROM costs WHERE round <> ''
    GROUP BY student, round
"""
# One row a round: how stale its rollouts were, by tokens (at worst: in one step), and what max_staleness cut off.
_STALENESS = """
    SELECT student, round, any_value(costs.steps) AS steps, any_value(costs.steps_not_taken) AS steps_not_taken,
        sum(compared_tokens)::BIGINT AS compared_tokens,
        sum(staleness_kl * compared_tokens) / sum(compared_tokens) AS staleness_kl,
        max(staleness_kl) AS worst_staleness_kl,
        sum(effective_share * compared_tokens) / sum(compared_tokens) AS effective_share,
        sum(clipped_share * compared_tokens) / sum(compared_tokens) AS clipped_share,
        avg(truncated_share) AS truncated_share
    FROM runs LEFT JOIN costs USING (student, round) WHERE costs.stage = 'train'
    GROUP BY student, round
"""
# One row a scored rollouts file: what came from the store, and sequences that stand more than once in this run.
_DUPLICATES = """
    SELECT student, round,
        count(*) AS sequences,
        count(*) FILTER (times > 1) AS repeated,
        sum(positions)::BIGINT AS positions,
        coalesce(sum(positions) FILTER (times > 1), 0)::BIGINT AS positions_repeated,
        any_value(reused) AS positions_reused
    FROM (SELECT student, round, positions, count(*) OVER (PARTITION BY sequence_key) AS times FROM scores)
    LEFT JOIN (SELECT student, round, positions_reused AS reused FROM costs WHERE stage = 'score')
    USING (student, round)
    GROUP BY student, round
"""
# One row a token of a shown held-out completion: work/evaluations/STUDENT-CHECKPOINT.parquet.
_TOKENS = """
    SELECT * EXCLUDE (filename),
        split_part(parse_filename(filename, true), '-', 1) AS student,
        split_part(parse_filename(filename, true), '-', 2) AS "round"
    FROM tokens_files
"""
# One row a segment of this run: its manifest.
_SEGMENTS = """
    SELECT * EXCLUDE (files, measured, filename),
        list_sum(list_transform(map_values(files), lambda entry: entry.size_bytes))::BIGINT AS size_bytes,
        measured.positions AS measured_positions, measured.forward_kl AS error_nats
    FROM manifests
"""

_DERIVED = {
    "segments": _SEGMENTS,
    "tokens": _TOKENS,
    "ages": _AGES,
    "coverage": _COVERAGE,
    "tails": _TAILS,
    "disagreement": _DISAGREEMENT,
    "costs": _COSTS,
    "rounds_cost": _ROUNDS_COST,
    "staleness": _STALENESS,
    "duplicates": _DUPLICATES,
}
VIEWS = ("prompts", "rollouts", "scores", "store", "runs", *_DERIVED)


def connect(work: Path, logs: Path, store: Path) -> duckdb.DuckDBPyConnection:
    """A database in memory with the VIEWS."""
    connection = duckdb.connect()
    indexes = visible_files(store, INDEXES)
    for name, files, schema, reader in (
        ("prompts", visible_files(work, "prompts/prompts.parquet"), PROMPT, "read_parquet(%s)"),
        ("rollouts_files", visible_files(work, "**/rollouts.parquet"), ROLLOUT.append(_FILENAME), _PARQUET),
        ("scores_files", visible_files(work, "**/index.parquet"), INDEX.append(_FILENAME), _PARQUET),
        ("store", indexes, INDEX.append(_FILENAME), _PARQUET),
        ("store_times", indexes, _TIMES, "read_blob(%s)"),
        ("tokens_files", visible_files(work, "evaluations/*-*.parquet"), COMPARISON.append(_FILENAME), _PARQUET),
        ("manifests_files", visible_files(work, "**/manifest.json"), _MANIFESTS, _MANIFEST),
        ("runs", visible_files(logs, "**/train.csv"), RUNS, _CSV),
        ("costs_files", visible_files(work, "costs/*.json"), _COST_FILES, _JSON),
    ):
        _view(connection, name, files, schema, reader)
    for name in ("rollouts", "scores", "manifests"):
        placed = _PLACED.format(start=len(f"{work}/") + 1, files=f"{name}_files")
        connection.execute(f"CREATE VIEW {name} AS {placed}")
    for name, sql in _DERIVED.items():
        connection.execute(f"CREATE VIEW {name} AS {sql}")
    return connection


def query(connection: duckdb.DuckDBPyConnection, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Column names and rows of a statement; what DuckDB refuses is a UserError."""
    try:
        result = connection.execute(sql)
        return [column[0] for column in result.description or []], result.fetchall()
    except duckdb.Error as error:
        got, views = str(error).splitlines()[0], ", ".join(VIEWS)
        raise UserError("query", expected="SQL that DuckDB runs", got=got, remedy=f"the views are {views}") from error


def _view(connection: duckdb.DuckDBPyConnection, name: str, files: list[str], schema: pa.Schema, reader: str) -> None:
    """A view over files, or over an empty table of the same columns (`no_NAME`) where there are none."""
    connection.register(f"no_{name}", schema.empty_table())
    listed = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
    found = reader % f"[{listed}]" if files else f"no_{name}"
    connection.execute(f"CREATE VIEW {name} AS SELECT * FROM {found}")
