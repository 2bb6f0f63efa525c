"""Do independent runs in processes of their own, as many at once as there are processors."""

import gc
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context

from bench.output import Row


def side_by_side(runs: Sequence[Callable[[], Row]], processes: int) -> list[Row]:
    """Return the rows of runs, in their order; with one process they run in this one.

    A process has one thread, because the models are too small for two.

    Args:
        runs: The runs, which a new process can import.
        processes: The largest number of runs at once.

    Raises:
        Exception: What a run raised, after the other processes have ended theirs.
    """
    count = min(processes, len(runs))
    if count < 2:
        return [run() for run in runs]
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
        done: list[Future[Row]] = [pool.submit(_run, run) for run in runs]
    return [future.result() for future in done]


def _run(run: Callable[[], Row]) -> Row:
    """Return the row of a run."""
    row = run()
    gc.freeze()  # garbage collection searched what the run imported: a tenth of the time of the next run
    return row
