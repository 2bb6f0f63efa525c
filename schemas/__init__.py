"""Contracts on disk: what every file holds, in names and types. pyarrow and the standard library only."""
