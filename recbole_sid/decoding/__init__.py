"""From level logits to items: the trie of valid semantic IDs and beam search over it."""
