"""pipeline.runtime.progress: without a terminal, lines report how many tokens are done, the rate and the time left."""

import io
import re
import subprocess
import sys

import pytest

from pipeline.runtime.progress import bar, summary


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_summary_counts_the_tokens_of_this_run(capsys: pytest.CaptureFixture[str]) -> None:
    with bar("score", 5000, done=2000) as meter:
        meter.update(1500)
        meter.update(1500)
    assert re.fullmatch(r"score: 3,000 tokens in \d+\.\d s \([\d,]+ tokens/s\)\n", capsys.readouterr().out)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, which a test sets."""
    time = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: time[0])
    return time


def test_lines_report_rate_time_left_and_the_current_step(capsys: pytest.CaptureFixture[str], now: list[float]) -> None:
    with bar("train", 4000, done=1000) as meter:
        meter.set_postfix(loss="1.234")
        for now[0] in (1006.0, 1012.5, 1020.0, 1025.0):
            meter.update(500)
    output = capsys.readouterr()
    assert output.err.splitlines() == [  # one every ten seconds
        "train: 2.00k of 4.00k tokens (50%), 80.0 tokens/s, 00:25 left, loss=1.234",
        "train: 3.00k of 4.00k tokens (75%), 80.0 tokens/s, 00:12 left, loss=1.234",
    ]
    assert "\r" not in output.err
    assert output.out == "train: 2,000 tokens in 25.0 s (80 tokens/s)\n"


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with bar("train", 4000) as meter:
        meter.update(3000)
        meter.refresh()
    assert re.search(r"\rtrain: +75%.*3\.00k/4\.00k \[\d\d:\d\d<\d\d:\d\d, .* tokens/s\]", terminal.getvalue())


def test_a_failed_step_prints_no_summary(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), bar("score", 10) as meter:
        meter.update(1 // 0)
    assert "tokens in" not in capsys.readouterr().out


def test_work_without_tokens_has_a_unit_of_its_own_and_slow_work_a_rate(
    capsys: pytest.CaptureFixture[str], now: list[float]
) -> None:
    with bar("read m", 3, unit="parts") as meter:
        meter.set_postfix(now="weights")
        now[0] = 1012.5
        meter.update()
        now[0] = 1020.0
        meter.update(2)
    output = capsys.readouterr()
    assert output.err == "read m: 1 of 3 parts (33%), 0.08 parts/s, 00:25 left, now=weights\n"
    assert output.out == "read m: 3 parts in 20.0 s (0.15 parts/s)\n"


def test_where_nobody_knows_the_total_there_is_a_rate_and_no_time_left(
    capsys: pytest.CaptureFixture[str], now: list[float]
) -> None:
    with bar("data train", None, unit="rows") as meter:
        now[0] = 1010.0
        meter.update(20_000)
    output = capsys.readouterr()
    assert output.err == "data train: 20.0k rows, 2.00k rows/s\n"
    assert output.out == "data train: 20,000 rows in 10.0 s (2,000 rows/s)\n"


def test_a_stage_ends_with_what_it_spent() -> None:
    assert summary("teacher", {"tokens": 0, "seconds": 2.04}) == "teacher: done in 2.0 s"
    scored = {"tokens": 12761, "seconds": 83.2, "positions": 1414, "positions_reused": 350}
    assert summary("small-r1-score", scored) == (
        "small-r1-score: done in 83.2 s, 12,761 tokens, 350 of 1,414 positions from the store"
    )
    trained = {"tokens": 90, "seconds": 3.0, "steps": 7, "steps_not_taken": 0}
    assert summary("small-r1-train", trained) == "small-r1-train: done in 3.0 s, 90 tokens"
    assert summary("small-r1-train", trained | {"steps_not_taken": 3}) == (
        "small-r1-train: done in 3.0 s, 90 tokens, 3 of 10 steps not taken (schedule.max_staleness)"
    )


def test_bars_of_libraries_stay_out_of_a_log() -> None:
    code = "import stages; from tqdm.auto import tqdm; list(tqdm(range(3))); print('done')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8")
    assert (done.stdout, done.stderr) == ("done\n", "")
