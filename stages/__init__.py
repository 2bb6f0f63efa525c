"""One click command a DVC stage: open files, call one step, close. No logic lives here.

Four things happen at import. Three must come before torch does anything; docs/decisions.md has the measurements.
OpenMP threads that wait spin for microseconds, not milliseconds, so that a busy neighbour costs its share and no more.
MKL's threads share a product out by columns: by rows, its way with few of them, each would go through all weights.
And freed memory stays with the process: glibc otherwise returns every large tensor to the kernel and asks for zeroed
pages again, a fifth of a training step. The fourth comes before tqdm: bars of libraries stay out of a log, in which
carriage returns would make one long line of them. What a stage does `pipeline.runtime.progress` tells there.
"""

import contextlib
import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h

os.environ.setdefault("GOMP_SPINCOUNT", "3000")
os.environ.setdefault("MKL_NUM_STRIPES", str(os.cpu_count()))  # columns alone, when at least half the threads
if not sys.stderr.isatty():
    os.environ.setdefault("TQDM_DISABLE", "1")
with contextlib.suppress(OSError, AttributeError):  # another C library: nothing to set
    _libc = ctypes.CDLL("libc.so.6")
    _libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    _libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
    _libc.mallopt(_M_TOP_PAD, 1 << 26)
