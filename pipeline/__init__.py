"""The library: one package per concern.

docs/architecture.md lists the packages in the order in which they import each other. Read `core.types` first, then
`tasks`, `rollout`, `scoring`, `store`, `losses`, `training` and `evaluation`: this is the order of the data.

This module imports nothing, so that no stage depends on a package that it does not use.
"""
