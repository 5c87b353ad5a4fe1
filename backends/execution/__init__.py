"""A frozen graph evaluated: exactly, and in the integers of a target."""
