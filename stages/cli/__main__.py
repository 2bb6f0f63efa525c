"""Run the `stillroom` command as `python -m stages.cli`."""

from stages.cli.main import main

main()
