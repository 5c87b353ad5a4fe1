"""From an ONNX file to an `nn.Module` that computes the same in float, node by node, with a free batch."""
