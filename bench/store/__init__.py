"""Benchmarks of the score store: bytes, fidelity, reading and look-up."""
