"""Benchmarks of the loss and of a training step."""
