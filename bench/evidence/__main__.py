"""Run a command of the evidence: `python -m bench.evidence COMMAND`."""

from bench.evidence.commands import main

main()
