"""Score a sample of the rollouts for `stillroom store forecast --sample`; the store keeps it for the score stage."""

import sys
from contextlib import redirect_stdout

from pipeline.runtime.config import section
from pipeline.runtime.layout import LAYOUT
from pipeline.scoring.score import ScoringParams
from pipeline.scoring.teacher import CachedTeacher
from pipeline.store.keys import unknown
from pipeline.workspace.forecast_inputs import works


def ask_sample(count: int) -> None:
    """See to it that work/teacher has scored so many sequences of each rollouts file, spread over its prompts."""
    if written := [(one.name, one.rollouts) for one in works() if one.rollouts]:
        oracle = CachedTeacher.open(section(LAYOUT.params, ScoringParams, "scoring"))
        for name, rollouts in written:
            known = {one.key for one in oracle.find(rollouts)}
            missing = unknown(rollouts, known)  # in the order of prompts
            wanted = min(count - len(known), len(missing))
            if wanted > 0:
                some = [missing[place * len(missing) // wanted] for place in range(wanted)]
                with redirect_stdout(sys.stderr):
                    oracle.score(some, {}, title=f"sample of {name}")
