"""pipeline.progress: where the output is no terminal, lines that say how many tokens, how fast, and what is left."""

import re

import pytest

from pipeline import progress
from pipeline.progress import bar


def test_a_summary_counts_the_tokens_of_this_run(capsys: pytest.CaptureFixture[str]) -> None:
    with bar("score", 5000, done=2000) as meter:
        meter.update(1500)
        meter.update(1500)
    assert re.fullmatch(r"score: 3,000 tokens in \d+\.\d s \([\d,]+ tokens/s\)\n", capsys.readouterr().out)


def test_the_bar_tells_rate_and_time_left(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_PLAIN_INTERVAL_S", 0.0)
    with bar("train", 4000) as meter:
        for _ in range(3):
            meter.update(1000)
    assert re.search(r"train: +75%\|#+\d* *\| 3\.00k/4\.00k \[\d\d:\d\d<\d\d:\d\d, .*tok/s\]", capsys.readouterr().err)


def test_a_failed_step_prints_no_summary(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), bar("score", 10) as meter:
        meter.update(1 // 0)
    assert "tokens in" not in capsys.readouterr().out
