"""A frozen graph as ONNX nodes, in the two forms of a file."""
