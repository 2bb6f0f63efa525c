"""A DVC pipeline of experiments over the project's own stages: one table and one figure per question.

    cd bench/evidence && dvc repro

dvc.yaml says what runs, params.yaml with which sizes, and stories.yaml has the parameters of the project that students
and teacher belong to. Read `runs` first, then `tables`.
"""
