"""Benchmarks of whole jobs: cost, quality, and methods of distillation."""
