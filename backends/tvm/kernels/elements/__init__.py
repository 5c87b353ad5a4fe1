"""Kernels that go element by element: reductions along axes, tables of rows."""
