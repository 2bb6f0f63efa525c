"""`python -m bench.evidence COMMAND`."""

from bench.evidence.commands import main

main()
