"""Operators with numbers or layouts of their own, a kind a file."""
