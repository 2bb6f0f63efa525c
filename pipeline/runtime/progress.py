"""What a stage tells while it works: a bar in a terminal, plain lines elsewhere, and a line when something is done.

A bar has how much is done, how much a second, the time left and what it is doing, in tokens or in whatever the work
has instead: files, rows, prompts, parts. Where the output is no terminal (a log, a pipe) the same stands in a line
every ten seconds, without carriage returns. Where nobody knows the total, as of rows that are streamed, there is no
time left.
"""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:  # who prints lines does not import it
    from tqdm import tqdm

_PLAIN_INTERVAL_S = 10.0


class Lines:
    """A meter that prints lines; the part of tqdm's interface that a step uses."""

    def __init__(self, title: str, total: int | None, done: int, unit: str) -> None:
        """`done` units of `total` are there already, and do not count for the rate."""
        self.n, self.total = float(done), None if total is None else float(total)
        self._title, self._done, self._unit, self._shown = title, done, unit, ""
        self._started = self._told = time.monotonic()

    def update(self, n: float = 1) -> None:
        """Count `n` more; now and then, say so."""
        self.n += n
        if time.monotonic() - self._told >= _PLAIN_INTERVAL_S:
            self._told = time.monotonic()
            print(self._line(self._told - self._started), file=sys.stderr, flush=True)

    def set_postfix(self, **shown: Any) -> None:
        """What else the next lines say."""
        self._shown = "".join(f", {name} {value}" for name, value in shown.items())

    def _line(self, seconds: float) -> str:
        rate = (self.n - self._done) / seconds if seconds > 0 else 0.0
        of = f" of {self.total:,.0f}" if self.total else ""
        share = f" ({self.n / self.total:.0%})" if self.total else ""
        left = f", {duration((self.total - self.n) / rate)} left" if rate and self.total and self.total > self.n else ""
        return f"{self._title}: {self.n:,.0f}{of} {self._unit}{share}, {_rate(rate, self._unit)}{left}{self._shown}"


Meter: TypeAlias = "tqdm[Any] | Lines"


def duration(seconds: float) -> str:
    """h:mm:ss, or m:ss below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _rate(each_second: float, unit: str) -> str:
    return f"{each_second:,.{0 if each_second >= 10 else 2}f} {unit}/s"


@contextmanager
def bar(title: str, total: int | None, *, unit: str = "tokens", done: int = 0) -> Iterator[Meter]:
    """A meter, and a line that sums up when the block ends well."""
    started = time.monotonic()
    with _meter(title, total, unit, done) as meter:
        yield meter
        made = int(meter.n) - done
    seconds = time.monotonic() - started
    print(f"{title}: {made:,} {unit} in {seconds:.1f} s ({_rate(made / max(seconds, 1e-9), unit)})", flush=True)


@contextmanager
def _meter(title: str, total: int | None, unit: str, done: int) -> Iterator[Meter]:
    if not sys.stderr.isatty():
        yield Lines(title, total, done, unit)
        return
    from tqdm import tqdm

    with tqdm(
        total=total,
        initial=done,
        desc=title,
        unit=f" {unit}",
        unit_scale=total is None or total >= 1000,
        dynamic_ncols=True,
        mininterval=0.2,
    ) as meter:
        yield meter


def summary(name: str, entry: Mapping[str, Any]) -> str:
    """The line at the end of a stage, from its entry in work/costs."""
    parts = [f"{name}: done in {entry['seconds']:.1f} s"]
    if entry["tokens"]:
        parts.append(f"{entry['tokens']:,} tokens")
    if entry.get("positions"):
        parts.append(f"{entry.get('positions_reused', 0):,} of {entry['positions']:,} positions from the store")
    if entry.get("steps_not_taken"):
        steps = entry["steps"] + entry["steps_not_taken"]
        parts.append(f"{entry['steps_not_taken']} of {steps} steps not taken (schedule.max_staleness)")
    return ", ".join(parts)
