"""The page report/index.html and its relatives: findings -> charts, heat map and tables -> one file.

Guarantee: a page needs nothing beside itself, neither network nor server, and whatever a model wrote is text in it.
"""
