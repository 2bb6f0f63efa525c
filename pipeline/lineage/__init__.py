"""Where a model comes from: the record beside its weights, its model card, and what DVC knows about its making.

Read records, lineage, model_card, then dvc_index and describe. No stage depends on this package except `report`,
because it cannot change a number.
"""
