"""The artifact's own C files, compiled for this machine and run with every quantized tensor read out."""

from __future__ import annotations

import ctypes
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from backends.c99.emit import DESCRIPTION, SOURCE
from backends.c99.toolchain import STANDARD, compile_c, host_compiler
from pipeline.errors import ParityError
from pipeline.parity import LOGITS

LEVELS = {"O2": "-O2", "O0": "-O0"}  # optimised as users deploy it, and as the language is written
# The same functions a second time, under other names and with the trace on: `model.c` itself stays as it is shipped.
_SHIM = """
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static uint8_t **tensors;

static void record(int tensor, const uint8_t *codes, size_t count)
{
    if (tensors[tensor]) {
        memcpy(tensors[tensor], codes, count);
        tensors[tensor] += count;
    }
}

#define ISOBIT_TRACE(tensor, codes, count) record(tensor, codes, count)
#define NAME_run traced_run
#define NAME_quantize traced_quantize
#include "SOURCE"
#undef NAME_run
#undef NAME_quantize

void NAME_run(const uint8_t *codes, float *logits);
void NAME_quantize(const float *input, uint8_t *codes);

/* Samples whose logits differ between the traced functions and those that are shipped. */
int64_t replay(const float *x, int64_t samples, int64_t inputs, int64_t outputs, uint8_t *codes, uint8_t **recorded,
               float *logits, float *shipped)
{
    int64_t differing = 0;
    tensors = recorded;
    for (int64_t i = 0; i < samples; i++, x += inputs, logits += outputs) {
        NAME_quantize(x, codes);
        NAME_run(codes, shipped);
        traced_run(codes, logits);
        differing += memcmp(logits, shipped, (size_t)outputs * sizeof(float)) != 0;
    }
    return differing;
}
"""


class CSession:
    """`model.c` as a shared library of this machine.

    Args:
        folder: of the artifact.
        level: key of `LEVELS`.

    Raises:
        TargetError: there is no C compiler, or it refuses the files.
    """

    def __init__(self, folder: Path, level: str) -> None:
        self.level = level
        self._model = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        self._folder = tempfile.TemporaryDirectory()
        source = (folder / SOURCE).resolve()
        shim, library = Path(self._folder.name) / "shim.c", Path(self._folder.name) / "model.so"
        shim.write_text(_SHIM.replace("NAME", self._model["name"]).replace("SOURCE", SOURCE), encoding="utf-8")
        options = [*STANDARD, LEVELS[level], "-fPIC", "-shared", f"-I{source.parent}"]
        compile_c([*host_compiler(), *options, str(shim), str(source), "-o", str(library)], Path(self._folder.name))
        self._replay = ctypes.CDLL(str(library)).replay
        self._replay.restype = ctypes.c_int64

    def run(self, x: Tensor | np.ndarray) -> Mapping[str, np.ndarray]:
        """uint8 codes by quantizer name in the graph's shape, and float32 `logits`, of x float32 [N, C, H, W].

        Raises:
            ParityError: reading the tensors out changed the logits.
        """
        values = np.ascontiguousarray(np.asarray(x, np.float32))
        tensors = self._model["tensors"]
        recorded = [np.empty((len(values), *tensor["shape"]), np.uint8) if tensor["quantized"] else None
                    for tensor in tensors]
        logits = np.empty((len(values), *self._model["logits"]), np.float32)
        self._run(values, recorded, logits)
        codes = {tensor["name"]: _channels_first(array, tensor["nchw"])
                 for tensor, array in zip(tensors, recorded, strict=True) if array is not None}
        return {**codes, LOGITS: logits}

    def _run(self, values: np.ndarray, recorded: list[np.ndarray | None], logits: np.ndarray) -> None:
        outputs = int(np.prod(logits.shape[1:]))
        codes, shipped = np.empty(values[:1].size, np.uint8), np.empty(outputs, np.float32)
        addresses = [None if array is None else array.ctypes.data for array in recorded]
        places = (ctypes.c_void_p * len(recorded))(*addresses)
        count = ctypes.c_int64
        differing = self._replay(
            _address(values), count(len(values)), count(codes.size), count(outputs), _address(codes), places,
            _address(logits), _address(shipped),
        )
        if differing:
            raise ParityError(
                f"reading the quantized tensors changes the logits of {differing} samples at level '{self.level}'",
                hint="the compiler is at fault: report its version with the model",
            )


def _address(array: np.ndarray) -> Any:
    return ctypes.c_void_p(array.ctypes.data)


def _channels_first(codes: np.ndarray, shape: list[int]) -> np.ndarray:
    return np.ascontiguousarray(codes.transpose(0, 3, 1, 2)).reshape(len(codes), *shape)
