"""Training with every tail estimator, from rollouts to scores to a segment; none silently falls back on the bucket."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from pipeline.losses import tail_estimators
from pipeline.losses.batch import Batch
from pipeline.training.batches import Pool, iter_batches, plan_steps
from tests.training_jobs import KEY, MIX, OBJECTIVE, make_job, rewarded, scored, train_round, written_by

STEPS = range(2)
HALF: dict[str, Any] = {"student_fraction": 0.5}


@dataclass(frozen=True)
class Start:
    """A student, its rollouts and the fixed corpus, both scored with each codec."""

    student: Path
    own: dict[str, Pool]
    corpus: dict[str, Pool]


@pytest.fixture(scope="module")
def start(make_model_dir: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Start:
    root = tmp_path_factory.mktemp("supports")
    job = make_job(make_model_dir, root, samples=2, tokens=6, teacher_range=0.1, dropout=0.0)
    written = rewarded(written_by(job.student, 2, tokens=6, record_tail_samples=4))
    codecs = ("sqrt8", "rskd")
    return Start(
        job.student,
        {codec: scored(written, job.teacher, root / f"own {codec}", codec=codec) for codec in codecs},
        {
            codec: scored(list(job.corpus.rollouts), job.teacher, root / f"corpus {codec}", codec=codec)
            for codec in codecs
        },
    )


def trained(start: Start, scratch: Path, *, codec: str, **changes: Any) -> tuple[list[Any], dict[str, Any]]:
    """Return the log of two steps, and the weights of the trained student."""
    name = changes.pop("divergence", "forward_kl")
    objective = replace(OBJECTIVE, divergence=replace(OBJECTIVE.divergence, name=name), **changes)
    own, corpus = start.own[codec], start.corpus[codec]
    model, state, _ = train_round(start.student, own, corpus, objective, scratch, steps=STEPS, **HALF)
    return state.rows, load_file(model / "model.safetensors")


def batches(start: Start, codec: str, **mix: Any) -> list[Batch]:
    planned = plan_steps(
        start.own[codec], start.corpus[codec], replace(MIX, **HALF, **mix), key=KEY, steps=STEPS, replay=0.0
    )
    return [batch for window in iter_batches(planned, temperature=1.0, column=0) for batch in window]


@pytest.mark.parametrize(
    ("codec", "changes"),
    [
        ("sqrt8", {"tail_estimator": "tail_samples"}),
        ("rskd", {"tail_estimator": "tail_samples"}),
        ("sqrt8", {"tail_estimator": "tail_samples", "divergence": "skew_forward_kl"}),
        *(
            ("sqrt8", {"tail_estimator": "tail_mean", "divergence": name})
            for name in ("reverse_kl", "jsd", "skew_reverse_kl", "tvd")
        ),
        *(
            ("sqrt8", {"tail_estimator": "residual", "divergence": name})
            for name in ("forward_kl", "reverse_kl", "jsd")
        ),
        *(("sqrt8", {"tail_estimator": "sampled", "divergence": name}) for name in ("forward_kl", "reverse_kl", "jsd")),
        ("sqrt8", {"tail_estimator": "auto", "alpha": 0.5}),
        ("sqrt8", {"tail_estimator": "tail_mean", "divergence": "jsd", "alpha": 0.5}),
        ("sqrt8", {"tail_estimator": "auto", "cross_entropy": 0.5}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(str(each) for each in value.values()),
)
def test_every_tail_estimator_trains_and_differs_from_the_bucket(
    start: Start, codec: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    rows, weights = trained(start, tmp_path / "found", codec=codec, **changes)
    less = (
        {"alpha": 1.0, "cross_entropy": 0.0}
        if changes.keys() & {"alpha", "cross_entropy"}
        else {"tail_estimator": "bucket"}
    )
    plain_rows, plain = trained(start, tmp_path / "plain", codec=codec, **changes | less)
    assert all(np.isfinite([row["loss"], row["grad_norm"]]).all() and row["grad_norm"] > 0 for row in rows)
    assert rows[0]["loss"] != pytest.approx(plain_rows[0]["loss"], rel=1e-4)
    assert all(np.isfinite(weight).all() for weight in weights.values())
    assert max(np.abs(weights[name] - plain[name]).max() for name in plain) > 1e-4
    if changes.get("alpha", 1.0) < 1:
        assert rows[0]["gain_clipped"] is not None
        assert rows[0]["reward"] > 0


def test_batches_contain_what_tail_estimators_need(start: Start) -> None:
    """Tail means belong to on-policy rows only; tail samples belong to all rows with a large tail.

    A row has no tail mean if all four of the sampling policy's tail tokens are stored.
    """
    every_rows = [batch.rows for batch in batches(start, "sqrt8", micro_batch_size=MIX.batch_size)]
    assert not all(rows.on_policy_N.all() for rows in every_rows)
    for rows in every_rows:
        large_N = np.asarray(rows.tail_N) > 0.05
        assert np.isfinite(rows.tail_mean_N[rows.on_policy_N & large_N]).mean() > 0.7
        assert np.isnan(rows.tail_mean_N[~rows.on_policy_N]).all()
        assert rows.has_tail_samples_N[large_N].mean() > 0.9
        assert np.isfinite(rows.sampling_logp_N[rows.on_policy_N]).all()
    rskd, sqrt8 = (batches(start, codec)[0].rows for codec in ("rskd", "sqrt8"))
    assert not np.array_equal(rskd.tail_sample_logp_NJ, sqrt8.tail_sample_logp_NJ)


def test_the_tail_mean_is_used_at_every_on_policy_position_that_has_one(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of the first step, in which the student is the sampling policy, counts the positions."""
    gaps: list[Any] = []
    inner = tail_estimators._excess_mean

    def watched(function: Any, ratio_N: Any, gap_N: Any) -> Any:
        gaps.append(gap_N)
        return inner(function, ratio_N, gap_N)

    monkeypatch.setattr(tail_estimators, "_excess_mean", watched)
    trained(start, tmp_path / "found", codec="sqrt8", tail_estimator="tail_mean", divergence="jsd", chunk_tokens=10_000)
    rows = batches(start, "sqrt8")[0].rows
    used_N = gaps[0].numpy() != 0
    assert np.array_equal(used_N, np.asarray(rows.on_policy_N) & np.isfinite(rows.tail_mean_N))
    assert used_N.sum() > len(used_N) / 4
