"""One progress bar for every long step: tokens, tokens/s and time left, and a summary line at the end."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

_PLAIN_INTERVAL_S = 10.0


@contextmanager
def bar(title: str, total_tokens: int, *, done: int = 0) -> Iterator["tqdm[Any]"]:
    """A bar in tokens; where the output is no terminal it prints a line every ten seconds instead of redrawing."""
    plain = not sys.stderr.isatty()
    started = time.monotonic()
    with tqdm(
        total=total_tokens,
        initial=done,
        desc=title,
        unit="tok",
        unit_scale=True,
        dynamic_ncols=True,
        mininterval=_PLAIN_INTERVAL_S if plain else 0.2,
        ascii=plain,
        leave=True,
    ) as meter:
        yield meter
        seconds = time.monotonic() - started
        tokens = int(meter.n) - done
    rate = tokens / seconds if seconds > 0 else 0.0
    print(f"{title}: {tokens:,} tokens in {seconds:.1f} s ({rate:,.0f} tokens/s)", flush=True)
