"""Metrics of texts: exact_match, rouge and bleu, and the rewards made of them.

It is separate from `pipeline.tasks` so that a new task does not run every rollout stage again.
"""
