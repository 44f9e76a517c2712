"""The networks, in torch alone: encoders, readout and heads, packing, the vocabulary of tokens."""
