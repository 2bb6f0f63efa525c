"""Losses of the student's logits against a truncated teacher.

Read `objective` first: it combines a divergence (`divergences`), an estimate for the tokens that are not stored
(`tail_estimators`) and the reward's term (`policy_gradient`). `fused_linear` computes the combination without storing
all logits, `staleness` measures how far the student has moved from its rollouts, and `batch` is the input.
It imports `models`, `core` and `runtime`.
"""
