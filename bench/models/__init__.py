"""Benchmarks of model classes."""
