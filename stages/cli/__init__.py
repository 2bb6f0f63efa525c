"""The `stillroom` command: thin commands over the packages of pipeline/."""
