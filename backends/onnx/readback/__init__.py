"""The finished ONNX file read by a small reader of its own, and compared with what the reference says.

Nothing here imports what writes the file: a mistake there must not be repeated here.
"""
