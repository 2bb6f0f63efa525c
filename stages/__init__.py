"""One click command a DVC stage: open files, call one step, close. No logic lives here.

The one thing that happens at import, because it must come before torch: OpenMP threads that wait spin for
microseconds, not milliseconds. On two cores with another busy process a forward pass of the default student ran at
1,313 tokens/s so, and at 128-839 with the default; alone it costs 6 % (2,845 against 3,024).
"""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "3000")
