"""Score rollouts with the teacher: truncated distributions at every completion token.

Read `teacher` first: it reads scores from the store, runs the teacher on the remaining rollouts and publishes the
result. `score` is its loop, `scorer` the interface of an engine, `hf_scorer` the engine that runs a transformers model,
and `truncate` decides what is stored of a distribution. It imports `store`, `models`,
`core`, `runtime` and `schemas`.
"""
