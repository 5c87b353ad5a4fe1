"""Artifacts on other versions of their runtimes: the environments, and what is run in them; `tools/check/compat.py`."""
