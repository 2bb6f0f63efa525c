"""Evaluation on held-out prompts: completions and their scores, and the student's agreement with its teacher.

Read `completions`, then `agreement`, `references`, `measurements` and `verdict`.
"""
