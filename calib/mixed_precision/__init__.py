"""How sensitive layers are, and which bits they get."""
