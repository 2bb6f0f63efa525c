"""Run a command of the evidence: `python -m bench.evidence COMMAND`."""

from bench.evidence.commands import main

if __name__ == "__main__":  # the processes of runs import this module too
    main()
