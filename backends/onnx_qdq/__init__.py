"""ONNX Runtime: QDQ files that run in its integer kernels, and the integer arithmetic that they must equal."""
