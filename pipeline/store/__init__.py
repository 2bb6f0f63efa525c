"""The store of teacher scores: immutable segments of Zarr, Parquet and JSON files that many checkouts share.

Read `schemas.segment` first (the format on disk), then `store` (publish and read), `segment_writer`, `segment_reader`
and `codecs` (arrays of scores to bytes). `keys` and `lookup` find a score by its content, `ragged` cuts and joins
scores, and `windows` decodes neighbouring sequences together for training. It imports `core`, `runtime`
and `schemas`.
"""
