"""SID-MLP's search in loops that numba compiles; `decoders` is the way in."""
