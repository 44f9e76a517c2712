"""Tokenizers: from item features to codes. One file each, registered in `recbole_sid.registry.TOKENIZERS`."""
