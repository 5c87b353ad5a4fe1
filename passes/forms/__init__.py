"""Layers written in the one form that integer kernels have."""
