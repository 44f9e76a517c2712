"""Evaluation: RecBole's evaluator with retrieved items only, comparison tables and figures."""
