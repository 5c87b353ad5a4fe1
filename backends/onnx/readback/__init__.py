"""The finished ONNX file read by a small reader of its own, and compared with what the reference says.

Nothing here imports what writes the file: a mistake there must not be repeated here. What an operator means is read
from the same graph, by the same rows of `pipeline`.
"""
