"""The library. Read it in this order.

records, errors, params, fingerprint, shared, progress, journal: the vocabulary.
tables, text, lm, topk, codec, windows, segment, store, catalog, upkeep, collation, divergence, schedule, engines/,
tasks/: the mechanisms.
prompts -> rollouts -> scoring -> batches -> objective -> training, and evaluation: the steps, in the order of the data.

Nothing is imported here: a stage's code dependencies are the modules it imports, and an import in this file would
tie every stage to every module.
"""
