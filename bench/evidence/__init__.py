"""A DVC pipeline of experiments over the project's own stages, on four tasks.

    cd bench/evidence && dvc repro

1. Divergence or data: does own data help, or does the divergence? (task `stories`)
2. Does the answer change with the task? (`repair`, `arithmetic`, `translation`)
3. How old may completions be, and what do student-support tokens and the tail mean add? (`stale`, on the stories)
4. What is the ratio of the gains of on-policy and off-policy training? (TASK-ratios.md)

dvc.yaml says what runs, params.yaml with which sizes; stories.yaml, arithmetic.yaml and translation.yaml have what
differs from a preset. Read `runs` first, then `tables`.
"""
