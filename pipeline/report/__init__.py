"""Reports about runs: metrics.json and tables (`summary`), a picture (`figure`), SQL views (`views`), HTML pages (`page`).

Read `summary` first: it gathers the measures that all others show. `metric_titles` has the title and the format of each
measure, and `compare` reads several runs for one page. The stage `report` and the command line import this package; it
imports `lineage` and `runtime`.
"""
