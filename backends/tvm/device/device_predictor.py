"""Shows what the network of this artifact finds in a picture: `python predict.py image.jpg`.

Needs numpy, pillow and apache-tvm-ffi and nothing else. Prints the five likeliest classes; of a detector whose decoder
was named at the build, the boxes, which are drawn into image.boxes.jpg; of any other network the shape and range of
each output. Runs on Python 3.8 and newer, so keep its syntax old.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from isobit.backends.device.golden import split_outputs
from isobit.backends.device.predictor import Infer, predict
from isobit.backends.tvm.device.device_runner import open_module, read_device, to_tensor, why_not_here


def open_model(folder: Path, name: str) -> Infer:
    """The network in TVM's runtime; it has one input, whatever its name."""
    device = read_device(folder)
    reason = why_not_here(device)
    if reason:
        raise ValueError(reason)
    function = open_module(folder)["main"]

    def infer(x: np.ndarray) -> dict[str, np.ndarray]:
        logits = np.from_dlpack(function(to_tensor(x)))
        return split_outputs(logits.reshape([1] + device["logits"]), device)

    return infer


if __name__ == "__main__":
    sys.exit(predict(open_model))
