"""ONNX Runtime's own quantizer, which `isobit bench` times beside our artifacts."""
