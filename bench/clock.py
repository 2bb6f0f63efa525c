"""Seconds by two clocks: that on the wall, and that of the processor, which neighbours disturb less."""

import time
from collections.abc import Callable

CLOCKS = {"seconds": time.perf_counter, "seconds_of_processor": time.process_time}


def now() -> dict[str, float]:
    """What each clock shows."""
    return {key: clock() for key, clock in CLOCKS.items()}


def since(began: dict[str, float]) -> dict[str, float]:
    """Seconds since then by each clock; the processor's are those of all threads."""
    return {key: end - began[key] for key, end in now().items()}


def timed(act: Callable[[], object]) -> dict[str, float]:
    """Seconds that something takes, by each clock."""
    began = now()
    act()
    return since(began)
