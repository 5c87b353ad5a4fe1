"""Damages artifacts between emission and proof, and tells which damage the gate does not see."""
