"""What runs on a device beside the ONNX file: the scripts of an artifact, each shipped as one file."""
