"""onnxsim before anything is read: constants folded, batch norms in their convolutions, shapes worked out."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from isobit.pipeline.errors import MESSAGE, first_line

if TYPE_CHECKING:
    import onnx

LARGEST = 1 << 30  # bytes of a file that onnxsim is given
SECONDS = 900
BATCH = "batch"
PROGRAM = """
import sys
import onnx, onnxsim
model = onnx.load(sys.argv[1])
if not all(port.type.tensor_type.HasField("shape") for port in model.graph.output):
    model = onnx.shape_inference.infer_shapes(model)
result, _ = onnxsim.simplify(model, check_n=0, tensor_size_threshold="64MB")
onnx.save(result, sys.argv[2])
"""


def simplified(proto: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> tuple[onnx.ModelProto, str]:
    """The simplified file, and what a user should know; the same file where onnxsim cannot take it.

    Args:
        shapes: sizes of inputs, the batch first; the batch becomes free all the same, so that nothing folds it in.
    """
    free = with_free_sizes(proto, shapes)
    if free.ByteSize() > LARGEST:
        return free, f"not simplified: the file has more than {LARGEST >> 20:,} MiB"
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "before.onnx"), Path(folder, "after.onnx")
        before.write_bytes(free.SerializeToString())
        result = _run(before, after)
        if isinstance(result, str):
            return free, f"not simplified, taken as it is: onnxsim {result}"
    return result, ""


def _run(before: Path, after: Path) -> onnx.ModelProto | str:
    """The simplified file, or why there is none. In a process of its own: onnxsim may end the one that it runs in."""
    import onnx

    command = [sys.executable, "-c", PROGRAM, str(before), str(after)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return f"takes more than {SECONDS} seconds"
    if done.returncode or not after.is_file():
        lines = done.stderr.strip().splitlines()
        return f"says: {lines[-1][:MESSAGE]}" if lines and done.returncode > 0 else f"ended with {done.returncode}"
    try:
        return onnx.load_model(str(after))
    except Exception as error:  # the parser raises its own types
        return first_line(error)


def with_free_sizes(
    proto: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]], batch: int | None = None
) -> onnx.ModelProto:
    """A copy of the file whose inputs have a free batch (or `batch`) and the sizes of `shapes`.

    What it says of the shapes of other values is left out, since it may hold for its own sizes alone.
    """
    import onnx

    free = onnx.ModelProto()
    free.CopyFrom(proto)
    del free.graph.value_info[:]
    constants = {tensor.name for tensor in free.graph.initializer}
    for port in free.graph.input:
        if port.name in constants:
            continue
        for axis, dim in enumerate(port.type.tensor_type.shape.dim):
            if axis == 0 and batch is not None:
                dim.dim_value = batch
            elif axis == 0:
                dim.dim_param = BATCH
            elif port.name in shapes:
                dim.dim_value = shapes[port.name][axis]
    for port in free.graph.output:
        for dim in port.type.tensor_type.shape.dim:
            dim.Clear()
    return free
