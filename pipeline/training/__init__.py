"""Training of a student on scored sequences.

Read `round` first (one round, from the first step to the published model), then `run` (its settings and data), `loop`
(the optimizer steps) and `batches` (the sequences of each step). `mixing` chooses sources, `temperature` and `collate`
prepare the teacher's rows, `optimizer`, `ema` and `log` are what their names say, and `sft` is supervised fine-tuning.
Stages and benchmarks import this package; it imports `losses`, `lineage`, `store`, `models`, `core` and `runtime`.
"""
