"""Weights and biases changed before or after rounding so that rounding costs less; no code is learned."""
