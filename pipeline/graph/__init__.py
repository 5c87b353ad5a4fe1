"""The FX graph: capture, names, edits, and what may stand in it."""
