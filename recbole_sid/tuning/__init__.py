"""Hyper-parameter search on Ray Tune: spaces, trials, the search and its report."""
