"""The artifact in ONNX Runtime: run it with every quantized tensor read out, and see which kernels it really uses."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from isobit.backends.onnx.device.device_runner import NUMPY
from isobit.backends.onnx.model_bytes import OWN, cut_at, output_names, quantized_tensors, with_outputs
from isobit.pipeline.errors import InputError, ParityError, first_line
from isobit.pipeline.samples.network_inputs import Inputs, tensors

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
            outputs of the untouched model are computed as well, and both must agree to the bit.
    """

    def __init__(self, path: Path, level: str = "all", threads: int = 1, taps: bool = True) -> None:
        model = path.read_bytes()
        self.level = level
        self._plain = _open(model, level, threads)
        self._inputs = {value.name: NUMPY[value.type] for value in self._plain.get_inputs()}
        self._outputs = [value.name for value in self._plain.get_outputs()]
        self._tapped = _open(with_outputs(model, quantized_tensors(model)), level, threads) if taps else None

    def run(self, x: Inputs | np.ndarray) -> Mapping[str, np.ndarray]:
        """uint8 codes by quantizer name (with `taps`), and each float32 output by its name, of x [N, ...].

        Raises:
            ParityError: reading the tensors out changed an output.
        """
        given = x if isinstance(x, tuple) else (x,)
        values = {
            name: np.ascontiguousarray(np.asarray(value, kind))
            for (name, kind), value in zip(self._inputs.items(), given, strict=True)
        }
        count = len(next(iter(values.values())))
        parts = [
            self._run({name: value[start:start + BATCH] for name, value in values.items()})
            for start in range(0, max(count, 1), BATCH)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _run(self, x: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = dict(zip(self._outputs, _computed(self._plain, self._outputs, x), strict=True))
        floats = {name: values.astype(np.float32, copy=False) for name, values in outputs.items()}
        if self._tapped is None:
            return floats
        names = [output.name for output in self._tapped.get_outputs()]
        results = dict(zip(names, _computed(self._tapped, names, x), strict=True))
        if any(not _equal(results.pop(name), values) for name, values in outputs.items()):
            raise ParityError(
                f"reading the quantized tensors changes what the model computes at level '{self.level}'",
                hint="the runtime optimises the two sessions differently: report it with the model",
            )
        return {**results, **floats}


class OnnxPieces:
    """A model file cut before and after each quantized tensor, so that every layer is run by itself.

    Args:
        path: `model.onnx`.
    """

    def __init__(self, path: Path) -> None:
        self._model = path.read_bytes()

    def run(self, x: Inputs, codes: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """See `pipeline.proof.arithmetic.Pieces`; by the level that users deploy with."""
        shapes = {name: given.shape[1:] for name, given in codes.items()}
        session = _open(cut_at(self._model, shapes), next(iter(LEVELS)), 1)
        kinds = {value.name: NUMPY[value.type] for value in session.get_inputs()}
        plain = dict(zip([name for name in kinds if name not in codes], tensors(x), strict=True))
        feed = {name: np.ascontiguousarray(np.asarray(codes.get(name, plain.get(name)), kind))
                for name, kind in kinds.items()}
        names = [value.name for value in session.get_outputs()]
        computed = zip(names, _computed(session, names, feed), strict=True)
        found = {name.removeprefix(OWN): values for name, values in computed}
        return {name: found[name] if name in codes else found[name].astype(np.float32, copy=False) for name in found}


def _computed(session: Any, names: list[str], feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs of a session.

    Raises:
        ParityError: the runtime refuses to compute them, as where a ratio of scales is beyond what its kernel takes.
    """
    try:
        return session.run(names, feed)
    except Exception as error:  # of the runtime's own types
        raise ParityError(
            f"ONNX Runtime loads the file and does not compute it: {first_line(error)}",
            hint="Where scales are too far apart, bring the values that meet in that operator nearer in the network.",
        ) from error


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    """Both have the same shape and the same bits."""
    first, second = (np.ascontiguousarray(values) for values in (one, other))
    return first.shape == second.shape and first.tobytes() == second.tobytes()


def open_session(path: Path, level: str = "all", threads: int = 1, taps: bool = True) -> OnnxSession:
    """See `OnnxSession`."""
    return OnnxSession(path, level, threads, taps)


def one_run(model: bytes, sample: Inputs) -> Callable[[], object]:
    """One inference of a sample by a session as users deploy it, on the calling thread."""
    session = _open(model, "all", 1)
    kinds = [(value.name, NUMPY[value.type]) for value in session.get_inputs()]
    feed = {name: np.asarray(tensor, kind) for (name, kind), tensor in zip(kinds, tensors(sample), strict=True)}
    return lambda: session.run(None, feed)


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
    content = path.read_bytes()
    deployed, named = _optimized(path, "all"), _optimized(path, "extended")
    floating = _float_values(deployed)
    computed = [node.op_type for node in deployed.node if _computes_in_float(node, floating)]
    return {
        "integer": sum(_computes_in_integers(node, floating) for node in deployed.node),
        "float": len(computed),
        "reasons": _reasons(named, {*quantized_tensors(content), *output_names(content)}) if computed else {},
        "kernels": dict(sorted(Counter(node.op_type for node in deployed.node).items())),
    }


def _optimized(path: Path, level: str) -> Any:
    """The graph that a session of `level` executes."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        try:
            _open(path.read_bytes(), level, 1, optimized)
        except Exception as error:  # of the runtime's own types; a full disk is one of the causes that it does not tell
            if shutil.disk_usage(folder).free > path.stat().st_size:
                raise
            raise InputError(
                "the disk of temporary files is full", where=tempfile.gettempdir(),
                hint="Make room, or set TMPDIR to a folder on another disk.",
            ) from error
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
