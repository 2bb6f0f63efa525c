"""Benchmarks of sampling and scoring."""
