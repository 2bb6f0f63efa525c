"""Benchmarks: each compares alternatives in one run and prints a table."""
