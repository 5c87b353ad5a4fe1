"""ONNX operators as torch functions: one function an operator type, in the files of this folder."""

from __future__ import annotations

from importlib import import_module

_FILES = (
    "activations", "arithmetic", "convolutions", "indexing", "joining", "linear", "norms", "pools", "recurrent",
    "reductions", "resize", "shapes",
)
for _name in _FILES:
    import_module(f"{__name__}.{_name}")
