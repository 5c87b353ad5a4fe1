"""Training of the whole quantized network."""
