"""Rollouts: completions sampled from a model directory.

Read `sampler` first (what a sampler takes and returns), then `hf_sampler` (transformers), `collect` (prompts to
rollouts, and the rollouts to replay) and `sample` (a resumable file of rollouts).
"""
