-- Views for `stillroom query`, over the files that pipeline/report/views.py registers.

-- work/prompts/train.parquet and heldout.parquet, and logs/STUDENT/ROUND/train.csv with one row per optimizer step.
CREATE VIEW prompts AS SELECT * EXCLUDE (filename) FROM prompts_files;
CREATE VIEW runs AS SELECT * EXCLUDE (filename) FROM runs_files;

-- The rollouts, scores and manifests of work/STUDENT/ROUND/... and work/corpus/..., with columns student and round.
CREATE MACRO student_of(place) AS CASE WHEN place[1] = 'corpus' THEN '' ELSE place[1] END;
CREATE MACRO round_of(place) AS CASE WHEN place[1] = 'corpus' THEN 'corpus' ELSE place[2] END;

CREATE VIEW rollouts AS
    SELECT *, student_of(place(filename)) AS student, round_of(place(filename)) AS round FROM rollouts_files;
CREATE VIEW scores AS
    SELECT *, student_of(place(filename)) AS student, round_of(place(filename)) AS round FROM scores_files;

-- One row per segment of this run: its manifest.
CREATE VIEW segments AS
    SELECT * EXCLUDE (files, measured, filename),
        student_of(place(filename)) AS student, round_of(place(filename)) AS round,
        list_sum(list_transform(map_values(files), lambda entry: entry.size_bytes))::BIGINT AS size_bytes,
        measured.positions AS measured_positions, measured.forward_kl AS error_nats
    FROM manifests_files;

-- One row per held-out prompt and evaluated model: the greedy completion, beside the teacher's.
CREATE VIEW completions AS
    WITH named AS (
        SELECT *, string_split(parse_filename(filename, true), '-') AS name FROM completions_files
    )
    SELECT completed.name[1] AS student, completed.name[2] AS "round", prompt_id, completed.text, taught.text AS teacher
    FROM named AS completed JOIN named AS taught USING (prompt_id)
    WHERE len(completed.name) = 2 AND taught.name = ['teacher'];

-- One row per token of a recorded held-out completion: work/evaluations/STUDENT-CHECKPOINT.parquet.
CREATE VIEW tokens AS
    SELECT * EXCLUDE (filename),
        split_part(parse_filename(filename, true), '-', 1) AS student,
        split_part(parse_filename(filename, true), '-', 2) AS "round"
    FROM tokens_files;

-- One row per segment of the store: its age, and whether this run uses one of its scores.
CREATE VIEW ages AS
    SELECT split_part(filename, '/', -2) AS segment,
        last_modified AT TIME ZONE 'UTC' AS written,
        round((epoch(now()) - epoch(last_modified)) / 3600, 3) AS age_hours,
        count(*) AS sequences,
        sum(positions)::BIGINT AS positions,
        bool_or(score_key IN (SELECT score_key FROM scores)) AS used
    FROM store JOIN store_times USING (filename)
    GROUP BY filename, last_modified;

-- One row per rollouts file: how many rollouts have a score in this run's segments, and how many also in the store.
CREATE VIEW coverage AS
    SELECT student, round,
        count(*) AS rollouts,
        count(score_key) AS scored,
        count(*) FILTER (score_key IN (SELECT score_key FROM store)) AS stored
    FROM rollouts LEFT JOIN scores USING (student, round, rollout_id)
    GROUP BY student, round;

-- One row per round, source and measure (tail, entropy): mean and quantiles of the sequences' means, by positions.
CREATE VIEW tails AS
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
    FROM ranked GROUP BY student, round, source, measure;

-- One row per scored rollout of a student: how much likelier its tokens were to the sampling policy than to the teacher.
CREATE VIEW disagreement AS
    SELECT student, round, prompt_id, rollout_id, positions,
        list_avg(behaviour_logp) AS student_logp,
        -teacher_nll::DOUBLE AS teacher_logp,
        student_logp - teacher_logp AS gap,
        top1_agreement
    FROM rollouts JOIN (
        SELECT student, round, rollout_id, positions, teacher_nll, top1_agreement FROM scores
    ) USING (student, round, rollout_id)
    WHERE source = 'student' AND positions > 0;

-- One row per stage that ran: work/costs/[STUDENT-][ROUND-]STAGE.json, where no student's name has a hyphen.
CREATE VIEW costs AS
    WITH named AS (
        SELECT *, string_split(parse_filename(filename, true), '-') AS name FROM costs_files
    )
    SELECT name[-1] AS stage,
        CASE WHEN len(name) = 1 OR name[1] IN ('teacher', 'corpus') THEN '' ELSE name[1] END AS student,
        CASE WHEN name[1] IN ('generate', 'corpus') THEN 'corpus' WHEN student = '' THEN '' ELSE name[2] END AS round,
        tokens, seconds, positions, positions_reused, payload_bytes, steps, steps_not_taken
    FROM named;

-- One row per round: the cost of each kind of stage; `generate` writes the corpus, and `rollout` the rounds.
CREATE VIEW rounds_cost AS
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
    GROUP BY student, round;

-- One row per round: staleness of its rollouts, weighted by tokens (worst: of one step), and the steps that
-- schedule.max_staleness skipped.
CREATE VIEW staleness AS
    SELECT student, round, any_value(costs.steps) AS steps, any_value(costs.steps_not_taken) AS steps_not_taken,
        sum(compared_tokens)::BIGINT AS compared_tokens,
        sum(staleness_kl * compared_tokens) / sum(compared_tokens) AS staleness_kl,
        max(staleness_kl) AS worst_staleness_kl,
        sum(effective_share * compared_tokens) / sum(compared_tokens) AS effective_share,
        sum(clipped_share * compared_tokens) / sum(compared_tokens) AS clipped_share,
        avg(truncated_share) AS truncated_share
    FROM runs LEFT JOIN costs USING (student, round) WHERE costs.stage = 'train'
    GROUP BY student, round;

-- One row per scored rollouts file: cache hits, and sequences that occur more than once in this run.
CREATE VIEW duplicates AS
    SELECT student, round,
        count(*) AS sequences,
        count(*) FILTER (times > 1) AS repeated,
        sum(positions)::BIGINT AS positions,
        coalesce(sum(positions) FILTER (times > 1), 0)::BIGINT AS positions_repeated,
        any_value(reused) AS positions_reused
    FROM (SELECT student, round, positions, count(*) OVER (PARTITION BY sequence_key) AS times FROM scores)
    LEFT JOIN (SELECT student, round, positions_reused AS reused FROM costs WHERE stage = 'score')
    USING (student, round)
    GROUP BY student, round;
