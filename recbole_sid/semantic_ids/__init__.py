"""The semantic IDs of a catalogue: the artefact, how it is built and extended, its quality, its formats."""
