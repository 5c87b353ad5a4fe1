"""Backends read the frozen reference and write files."""
