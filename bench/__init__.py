"""Measurements, side by side with the alternative in one run. Each prints a table; none is a test."""
