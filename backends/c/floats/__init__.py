"""Float operators in C: in float32, each element in a stated order."""
