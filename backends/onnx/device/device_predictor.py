"""Shows what the network of this artifact finds in a picture: `python predict.py image.jpg`.

Needs numpy, pillow and onnxruntime (1.17 or newer) and nothing else. Prints the five likeliest classes; of a detector
whose decoder was named at the build, the boxes, which are drawn into image.boxes.jpg; of any other network the shape
and range of each output. Runs on Python 3.8 and newer, so keep its syntax old.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from isobit.backends.device.predictor import Infer, predict

MODEL_FILE = "model.onnx"


def open_model(folder: Path, name: str) -> Infer:
    """The network in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(folder / MODEL_FILE), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def infer(x: np.ndarray) -> dict[str, np.ndarray]:
        values = session.run(names, {name: x})
        return {name: np.asarray(value) for name, value in zip(names, values)}  # noqa: B905 (Python 3.8)

    return infer


if __name__ == "__main__":
    sys.exit(predict(open_model))
