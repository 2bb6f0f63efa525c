"""Rollouts: completions sampled from a model directory.

Read `sampler` first (what a sampler takes and returns), then `hf_sampler` (transformers), `collect` (prompts to
rollouts), `sample` (a resumable file of rollouts) and `replay`. The stages generate, rollout and evaluate, and
`pipeline.evaluation`, import it.
"""
