"""Semantic IDs in the files of others: a reader and a writer per format, registered in `recbole_sid.registry.FORMATS`.

A reader gives a `CodeTable`; `recbole_sid.semantic_ids.ready_made` makes `SemanticIDs` of it.
"""
