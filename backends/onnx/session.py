"""The artifact in ONNX Runtime: run it with every quantized tensor read out, and see which kernels it really uses."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from isobit.backends.onnx.model_bytes import quantized_tensors, with_outputs
from isobit.pipeline.errors import ParityError
from isobit.pipeline.proof.parity import LOGITS

LEVELS = {
    "all": "ORT_ENABLE_ALL",  # the default: what users deploy with
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "disabled": "ORT_DISABLE_ALL",
}
BATCH = 64
_INTEGER = frozenset({
    "QLinearConv", "QLinearAdd", "QLinearMul", "QLinearGlobalAveragePool", "QLinearAveragePool", "QLinearConcat",
    "QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", "QLinearMatMul", "MatMulIntegerToFloat", "QGemm",
    "ConvInteger", "MatMulInteger",
})
_POOLS = frozenset({"MaxPool", "NhwcMaxPool"})
_BORDER = frozenset({"QuantizeLinear", "DequantizeLinear", "Cast"})
_MOVES = frozenset({
    "Reshape", "Transpose", "Slice", "Expand", "Pad", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Concat", "Split",
})


class OnnxSession:
    """One session of a model file.

    Args:
        path: `model.onnx`.
        level: optimisation level, a key of `LEVELS`.
        threads: of one operator.
        taps: report the codes of every quantized tensor. They come from a copy of the model with more outputs, so the
            logits of the untouched model are computed as well, and both must agree to the bit.
    """

    def __init__(self, path: Path, level: str = "all", threads: int = 1, taps: bool = True) -> None:
        model = path.read_bytes()
        self.level = level
        self._plain = _open(model, level, threads)
        self._tapped = _open(with_outputs(model, quantized_tensors(model)), level, threads) if taps else None

    def run(self, x: Tensor | np.ndarray) -> Mapping[str, np.ndarray]:
        """uint8 codes by quantizer name (with `taps`), and float32 `logits`, of x float32 [N, C, H, W].

        Raises:
            ParityError: reading the tensors out changed the logits.
        """
        values = np.ascontiguousarray(np.asarray(x, np.float32))
        parts = [self._run(values[start:start + BATCH]) for start in range(0, max(len(values), 1), BATCH)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _run(self, x: np.ndarray) -> dict[str, np.ndarray]:
        logits = self._plain.run([LOGITS], {"input": x})[0]
        if self._tapped is None:
            return {LOGITS: logits}
        names = [output.name for output in self._tapped.get_outputs()]
        results = dict(zip(names, self._tapped.run(names, {"input": x}), strict=True))
        if not np.array_equal(results.pop(LOGITS).view(np.uint32), logits.view(np.uint32)):
            raise ParityError(
                f"reading the quantized tensors changes what the model computes at level '{self.level}'",
                hint="the runtime optimises the two sessions differently: report it with the model",
            )
        return {**results, LOGITS: logits}


def open_session(path: Path, level: str = "all", threads: int = 1, taps: bool = True) -> OnnxSession:
    """See `OnnxSession`."""
    return OnnxSession(path, level, threads, taps)


def _open(model: bytes | str, level: str, threads: int, optimized: Path | None = None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, LEVELS[level])
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def integer_ops(path: Path) -> dict[str, Any]:
    """What a default session runs.

    Returns:
        `integer` and `float`: how many operators compute in each (data movement and Q/DQ count as neither);
        `reasons`: by the name of the quantized tensor that a float operator leads to, what runs there;
        `kernels`: how often each operator type occurs in the optimised graph.
    """
    deployed, named = _optimized(path, "all"), _optimized(path, "extended")
    floating = _float_values(deployed)
    computed = [node.op_type for node in deployed.node if _computes_in_float(node, floating)]
    return {
        "integer": sum(_computes_in_integers(node, floating) for node in deployed.node),
        "float": len(computed),
        "reasons": _reasons(named, {*quantized_tensors(path.read_bytes()), LOGITS}) if computed else {},
        "kernels": dict(sorted(Counter(node.op_type for node in deployed.node).items())),
    }


def _optimized(path: Path, level: str) -> Any:
    """The graph that a session of `level` executes."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        _open(path.read_bytes(), level, 1, optimized)
        return onnx.load(optimized).graph


def _reasons(graph: Any, known: set[str]) -> dict[str, str]:
    """What runs in float, by the quantized tensor that it leads to.

    Read from level `extended`: the layout change of level `all` gives new names to what it moves.
    """
    floating = _float_values(graph)
    found: dict[str, list[str]] = {}
    for node in graph.node:
        if _computes_in_float(node, floating):
            found.setdefault(_name_after(node, graph, known), []).append(node.op_type)
    return {name: f"ONNX Runtime runs {', '.join(ops)} in float" for name, ops in found.items()}


def _float_values(graph: Any) -> set[str]:
    """Names of float values. A saved graph does not state types, so they are followed from the inputs down."""
    import onnx

    floating = {value.name for value in graph.input if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    floating |= {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    for node in graph.node:
        follows = node.op_type not in _INTEGER | _BORDER and any(name in floating for name in node.input[:1])
        if follows or node.op_type == "DequantizeLinear" or _casts_to_float(node):
            floating.update(node.output)
    return floating


def _casts_to_float(node: Any) -> bool:
    import onnx

    return node.op_type == "Cast" and any(attribute.i == onnx.TensorProto.FLOAT for attribute in node.attribute)


def _computes_in_integers(node: Any, floating: set[str]) -> bool:
    return node.op_type in _INTEGER or (node.op_type in _POOLS and node.output[0] not in floating)


def _computes_in_float(node: Any, floating: set[str]) -> bool:
    return node.op_type not in _INTEGER | _BORDER | _MOVES and node.output[0] in floating


def _name_after(node: Any, graph: Any, known: set[str]) -> str:
    """The first quantized tensor, or the output, that the node's result reaches."""
    wanted = list(node.output)
    for name in wanted:
        if name in known:
            return name
        wanted += [output for reader in graph.node if name in reader.input for output in reader.output]
    return str(node.output[0])
