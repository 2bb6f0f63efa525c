"""What a stage tells while it works: a bar in a terminal, plain lines elsewhere, and a line when something is done.

A bar has tokens, tokens/s, the time left and what it is doing. Where the output is no terminal (a log, a pipe) the same
stands in a line every ten seconds, without carriage returns. Steps whose length nobody knows, such as reading a
model, say that they began and how long they took.
"""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

from tqdm import tqdm

_PLAIN_INTERVAL_S = 10.0


class Lines:
    """A meter that prints lines; the part of tqdm's interface that a step uses."""

    def __init__(self, title: str, total: int, done: int) -> None:
        """`done` tokens of `total` are there already, and do not count for the rate."""
        self.n, self.total = float(done), float(total)
        self._title, self._done, self._shown = title, done, ""
        self._started = self._told = time.monotonic()

    def update(self, n: float = 1) -> None:
        """Count `n` more tokens; now and then, say so."""
        self.n += n
        if time.monotonic() - self._told >= _PLAIN_INTERVAL_S:
            self._told = time.monotonic()
            print(self._line(self._told - self._started), file=sys.stderr, flush=True)

    def set_postfix(self, **shown: Any) -> None:
        """What else the next lines say."""
        self._shown = "".join(f", {name} {value}" for name, value in shown.items())

    def _line(self, seconds: float) -> str:
        rate = (self.n - self._done) / seconds if seconds > 0 else 0.0
        left = f", {duration((self.total - self.n) / rate)} left" if rate and self.total > self.n else ""
        share = f" ({self.n / self.total:.0%})" if self.total else ""
        return (
            f"{self._title}: {self.n:,.0f} of {self.total:,.0f} tokens{share}, {rate:,.0f} tokens/s{left}{self._shown}"
        )


Meter: TypeAlias = "tqdm[Any] | Lines"


def duration(seconds: float) -> str:
    """h:mm:ss, or m:ss below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def bar(title: str, total_tokens: int, *, done: int = 0) -> Iterator[Meter]:
    """A meter in tokens, and a line that sums up when the block ends well."""
    started = time.monotonic()
    if sys.stderr.isatty():
        with tqdm(
            total=total_tokens,
            initial=done,
            desc=title,
            unit="tok",
            unit_scale=True,
            dynamic_ncols=True,
            mininterval=0.2,
        ) as meter:
            yield meter
            tokens = int(meter.n) - done
    else:
        lines = Lines(title, total_tokens, done)
        yield lines
        tokens = int(lines.n) - done
    seconds = time.monotonic() - started
    rate = tokens / seconds if seconds > 0 else 0.0
    print(f"{title}: {tokens:,} tokens in {seconds:.1f} s ({rate:,.0f} tokens/s)", flush=True)


@contextmanager
def step(title: str) -> Iterator[None]:
    """A step of unknown length."""
    print(f"{title} ...", flush=True)
    started = time.monotonic()
    yield
    print(f"{title}: {time.monotonic() - started:.1f} s", flush=True)


def summary(name: str, entry: Mapping[str, Any]) -> str:
    """The line at the end of a stage, from its entry in work/costs."""
    parts = [f"{name}: done in {entry['seconds']:.1f} s"]
    if entry["tokens"]:
        parts.append(f"{entry['tokens']:,} tokens")
    if entry.get("positions"):
        parts.append(f"{entry.get('positions_reused', 0):,} of {entry['positions']:,} positions from the store")
    return ", ".join(parts)
