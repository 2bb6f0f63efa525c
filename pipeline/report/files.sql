-- The columns of files that have no schema in schemas/, as empty tables; pipeline/report/views.py reads the files.

-- logs/STUDENT/ROUND/train.csv: a row per optimizer step; a log may have more columns.
CREATE TABLE no_runs_files (
    student VARCHAR, round VARCHAR, step BIGINT, loss DOUBLE, compared_tokens BIGINT, staleness_kl DOUBLE,
    effective_share DOUBLE, clipped_share DOUBLE, truncated_share DOUBLE
);

-- work/costs/*.json: the cost of a stage.
CREATE TABLE no_costs_files (
    tokens BIGINT, seconds DOUBLE, positions BIGINT, positions_reused BIGINT, payload_bytes BIGINT, steps BIGINT,
    steps_not_taken BIGINT
);

-- manifest.json of the segments in work/.
CREATE TABLE no_manifests_files (
    scorer VARCHAR, teacher VARCHAR, tokenizer VARCHAR, engine VARCHAR, dtype VARCHAR, codec VARCHAR,
    sequences BIGINT, positions BIGINT, head_entries BIGINT, draws BIGINT, union_entries BIGINT,
    measured STRUCT(positions BIGINT, forward_kl DOUBLE), files MAP(VARCHAR, STRUCT(size_bytes BIGINT))
);

-- When each index of the store was written.
CREATE TABLE no_store_times (last_modified TIMESTAMP WITH TIME ZONE);
