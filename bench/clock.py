"""Seconds of wall-clock time and of processor time; other work on the machine disturbs the second less."""

import time
from collections.abc import Callable

CLOCKS = {"seconds": time.perf_counter, "seconds_of_processor": time.process_time}


def now() -> dict[str, float]:
    """Return the reading of each clock."""
    return {key: clock() for key, clock in CLOCKS.items()}


def since(began: dict[str, float]) -> dict[str, float]:
    """Return the seconds since `began` by each clock; processor time is the sum over all threads."""
    return {key: end - began[key] for key, end in now().items()}


def timed(act: Callable[[], object]) -> dict[str, float]:
    """Return the seconds that a call of `act` takes, by each clock."""
    began = now()
    act()
    return since(began)
