"""A float model as a file of ONNX: one convolution between pictures and features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper


def write_float(path: Path, batch: int | str = "n", side: int | str = 8) -> Path:
    """Write `image` [batch, 3, side, side] -> `features` [batch, 4, ...]; returns the path."""
    weights = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w"], ["sums"], pads=[1, 1, 1, 1]),
         helper.make_node("Relu", ["sums"], ["features"])],
        "net", [helper.make_tensor_value_info("image", 1, [batch, 3, side, side])],
        [helper.make_tensor_value_info("features", 1, [batch, 4, side, side])],
        [helper.make_tensor("w", 1, weights.shape, weights.ravel())],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path
