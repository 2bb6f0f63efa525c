"""The page report/index.html and the page that compares runs: rows of views -> charts, heat map, tables -> one file.

A page needs no other file, no network and no server, and whatever a model wrote is text in the page.
"""
