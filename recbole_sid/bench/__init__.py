"""Benchmark of decoding: what a batch of histories costs, row by row, in one interleaved run."""
