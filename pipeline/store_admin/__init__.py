"""Maintain the store: list, verify, repair and collect segments, and exchange scores with other stores and formats.

`integrity` serves `stillroom store ls`, `verify`, `repair` and `gc`; `rescore` compares stored scores with the teacher;
`import_scores` (with `import_parquet`) and `export_parquet` serve `import` and `export`.
"""
