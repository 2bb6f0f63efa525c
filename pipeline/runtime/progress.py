"""Report the progress of a stage: a bar on a terminal, lines elsewhere, and a summary at the end.

* A bar shows how much is done, the rate, the time left and the current step, in tokens or in another unit of the work.
* Where the output is no terminal (a log, a pipe), a line reports the same at most every ten seconds, without carriage
  returns. Work of unknown size, such as streamed rows, has no time left.
"""

import io
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

from tqdm import tqdm

_LINE_INTERVAL_S = 10.0

Meter: TypeAlias = "tqdm[Any]"


class _Lines(tqdm):  # type: ignore[type-arg]
    """A meter that prints lines instead of drawing a bar."""

    monitor_interval = 0  # no thread
    _printed_s = 0.0  # the time of the last line, since the start

    def display(self, *_args: Any, **_options: Any) -> None:
        """Print a line, unless the last one is too recent."""
        elapsed_s = self.format_dict["elapsed"]
        if elapsed_s - self._printed_s >= _LINE_INTERVAL_S:
            self._printed_s = elapsed_s
            print(" ".join(str(self).split()), file=sys.stderr, flush=True)


@contextmanager
def bar(title: str, total: int | None, *, unit: str = "tokens", done: int = 0) -> Iterator[Meter]:
    """Yield a meter, and print a summary if the block ends without an error.

    Args:
        title: The beginning of every line.
        total: The units of the whole work; None if unknown.
        unit: The plural noun of what is counted.
        done: The units that an earlier attempt finished; they do not count for the rate.
    """
    options: dict[str, Any] = {"initial": done, "desc": title, "unit": f" {unit}", "disable": False}
    options |= {"total": total, "unit_scale": total is None or total >= 1000}
    on_terminal = sys.stderr.isatty()
    with tqdm(**options, dynamic_ncols=True, mininterval=0.2) if on_terminal else _lines(options) as meter:
        yield meter
    count, seconds = int(meter.n) - done, meter.format_dict["elapsed"]
    rate = count / max(seconds, 1e-9)
    print(f"{title}: {count:,} {unit} in {seconds:.1f} s ({rate:,.{0 if rate >= 10 else 2}f} {unit}/s)", flush=True)


def _lines(options: Mapping[str, Any]) -> Meter:
    """Return a meter that leaves all of its output to `_Lines.display`, with the mean rate since the start."""
    of_total = " of {total_fmt}{unit} ({percentage:.0f}%), {rate_noinv_fmt}, {remaining} left"
    form = "{desc}: {n_fmt}" + (of_total if options["total"] else "{unit}, {rate_noinv_fmt}") + "{postfix}"
    interval: dict[str, Any] = {"mininterval": _LINE_INTERVAL_S, "delay": _LINE_INTERVAL_S, "miniters": 1}
    return _Lines(**options, **interval, bar_format=form, smoothing=0, leave=False, file=io.StringIO())


def summary(name: str, entry: Mapping[str, Any]) -> str:
    """Return the line at the end of a stage, from its entry in work/costs."""
    parts = [f"{name}: done in {entry['seconds']:.1f} s"]
    if entry["tokens"]:
        parts.append(f"{entry['tokens']:,} tokens")
    if entry.get("positions"):
        parts.append(f"{entry.get('positions_reused', 0):,} of {entry['positions']:,} positions from the store")
    if entry.get("steps_not_taken"):
        steps = entry["steps"] + entry["steps_not_taken"]
        # A round that became too stale took the step that showed it.
        key = "schedule.max_staleness" if entry["steps"] else "evaluation.stop_if_worse"
        parts.append(f"{entry['steps_not_taken']} of {steps} steps not taken ({key})")
    return ", ".join(parts)
