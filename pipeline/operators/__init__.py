"""Operators as rows: what an operator is, said once, for captures, targets, kernels and files alike."""
