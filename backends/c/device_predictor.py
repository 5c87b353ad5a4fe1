"""Shows what the network of this artifact finds in a picture: `python predict.py image.jpg`.

Needs numpy, pillow and a C compiler, with which it compiles `model.c` for the machine at hand. Prints the five
likeliest classes; of a detector whose decoder was named at the build, the boxes, which are drawn into image.boxes.jpg;
of any other network the shape and range of each output. Runs on Python 3.8 and newer, so keep its syntax old.
"""

from __future__ import annotations

import ctypes
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from isobit.backends.c.device_runner import DESCRIPTION, OPTIONS, SOURCE, checked, compiler, logit_count
from isobit.backends.device.golden import split_outputs
from isobit.backends.device.predictor import Infer, predict


def open_model(folder: Path, name: str) -> Infer:
    """The network as a library that was compiled just now; it has one input, whatever its name."""
    model = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as build:
        library = str(Path(build) / "model.so")
        checked([*compiler(), *OPTIONS, "-fPIC", "-shared", SOURCE, "-o", library, "-lm"], folder)
        loaded = ctypes.CDLL(library)
    quantize, run = getattr(loaded, model["name"] + "_quantize"), getattr(loaded, model["name"] + "_run")
    height, width, channels = model["tensors"][0]["shape"]
    codes = ctypes.create_string_buffer(height * width * channels)

    def infer(x: np.ndarray) -> dict[str, np.ndarray]:
        values = np.ascontiguousarray(x, np.float32)
        logits = np.empty(logit_count(model), np.float32)
        quantize(values.ctypes.data_as(ctypes.c_void_p), codes)
        run(codes, logits.ctypes.data_as(ctypes.c_void_p))
        return split_outputs(logits.reshape([1] + model["logits"]), model)

    return infer


if __name__ == "__main__":
    sys.exit(predict(open_model))
