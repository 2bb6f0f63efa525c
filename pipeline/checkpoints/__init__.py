"""Model directories: the teacher and the first checkpoint of each student.

Read `pretrained` first (any source), then `random_init` and `onnx_t5` (two kinds of source), `pruning` and `student`
(what a student changes), and `provenance` (licence and lineage).
"""
