"""Reports on runs: metrics.json and tables (`summary`), picture (`figure`), SQL views (`views`), HTML pages (`page`).

Read `run_report` first: it reads the results of a run and writes all files of report/. `metric_titles` has the title
and the format of each measure, and `compare` reads several runs for one page. It imports
`lineage` and `runtime`.
"""
