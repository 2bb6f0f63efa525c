"""The library. Read it in this order.

records, errors, params, fingerprint, ranks, shared, progress, journal: the vocabulary.
tables, text, lm, head, topk, ragged, codecs/, sequences, windows, segment, store, catalog, upkeep, views, tempering,
collation, divergence, surrogate, schedule, engines/, tasks/, rewards: the mechanisms; transfer, plain, intake, export:
scores from elsewhere and to elsewhere.
prompts -> rollouts -> scoring -> batches -> objective -> training, and evaluation: the steps, in the order of the data;
rescore and forecast: what a store is asked about them. measures, report, picture, page/: what people look at.

Nothing is imported here: a stage's code dependencies are the modules it imports, and an import in this file would
tie every stage to every module.
"""
