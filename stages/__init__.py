"""One module per DVC stage: it opens files, calls one step of `pipeline`, and writes the result.

Below `stillroom repro`, importing this package runs `python -m stages.NAME` elsewhere and ends it (stages/_forks.py).

Importing this package ends the process with one line where the packages are missing: `dvc repro` runs whatever `python`
is, also in a shell in which .venv is not active. Else it sets the environment of the process. The first three settings
must precede the import of torch; decisions 010 and 038 in docs/decisions/ have the measurements.

* Waiting OpenMP threads spin for microseconds instead of milliseconds, so that a stage loses little time to a busy
  neighbour.
* MKL divides a matrix product among its threads by columns. By rows, each thread would read all weights.
* Freed memory stays in the process. By default, glibc returns every large tensor to the kernel and asks for zeroed
  pages again, which takes a fifth of a training step.
* Libraries draw no progress bars into a log, where the carriage returns would make one long line of them. Stages report
  their progress through `pipeline.runtime.progress`.
"""

import contextlib
import ctypes
import importlib.util
import os
import sys

if sys.orig_argv[1:2] == ["-m"]:
    from stages._forks import run_in_fork  # other commands, such as `stillroom`, are no stages

    run_in_fork(sys.orig_argv[2])

_PACKAGES = ("click", "numpy", "pyarrow", "pydantic", "ruamel", "torch", "transformers", "zarr")
_missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
if _missing:
    raise SystemExit(
        f"error: python: expected the packages of requirements/lock.txt, got {sys.executable} without "
        f"{', '.join(_missing)}; activate .venv (`. .venv/bin/activate`), which `make setup` makes, or run `make repro`"
    )

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # of malloc.h

os.environ.setdefault("GOMP_SPINCOUNT", "3000")
# As many stripes as processors: MKL then divides by columns alone if it has at least half as many threads.
os.environ.setdefault("MKL_NUM_STRIPES", str(os.cpu_count()))
if not sys.stderr.isatty():
    os.environ.setdefault("TQDM_DISABLE", "1")
# Another C library than glibc has nothing to set.
with contextlib.suppress(OSError, AttributeError):
    _libc = ctypes.CDLL("libc.so.6")
    _libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    _libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
    _libc.mallopt(_M_TOP_PAD, 1 << 26)
