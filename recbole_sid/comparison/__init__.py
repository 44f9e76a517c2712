"""Comparing models fairly: the same data, split and evaluator, several seeds, and tests over users."""
