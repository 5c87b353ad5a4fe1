"""Ways to bring codes to their channel's multiple after an integer convolution, timed in ONNX Runtime.

The table of docs/onnx.md: 19 convolutions of ResNet-20's shapes with random codes, each with the second rounding of
nested levels after it; every way must give the same codes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

SHAPES = ((16, 32),) * 7 + ((32, 16),) * 6 + ((64, 8),) * 6  # channels, side
STEP = 0.02


class Net:
    """Nodes and constants of one model."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, values: object, dtype: type) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def call(self, op: str, *inputs: str, domain: str = "", **attributes: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], domain=domain, **attributes))
        return name

    def floats(self, values: object) -> str:
        return self.constant(values, np.float32)

    def bytes(self, values: object) -> str:
        return self.constant(values, np.uint8)


def _products(net: Net, codes: str, multiples: np.ndarray) -> str:
    """Two QLinearMul: what is emitted."""
    levels = 105 // multiples
    for factors, scale in ((levels, 1 / 105), (np.where(levels > 0, multiples, 0), 1.0)):
        one, zero = net.floats(1.0), net.bytes(0)
        codes = net.call("QLinearMul", codes, one, zero, net.bytes(factors), net.floats(scale), zero, one, zero,
                         domain="com.microsoft")
    return codes


def _floats(net: Net, codes: str, multiples: np.ndarray) -> str:
    value = net.call("Mul", net.call("Cast", codes, to=TensorProto.FLOAT), net.floats(1 / multiples))
    value = net.call("Mul", net.call("Round", value), net.floats(multiples))
    return net.call("Cast", value, to=TensorProto.UINT8)


def _integers(net: Net, codes: str, multiples: np.ndarray) -> str:
    value = net.call("Cast", codes, to=TensorProto.INT32)
    value = net.call("Add", value, net.constant((multiples - 1) // 2, np.int32))
    value = net.call("Div", value, net.constant(multiples, np.int32))
    value = net.call("Mul", value, net.constant(multiples, np.int32))
    return net.call("Cast", value, to=TensorProto.UINT8)


def _quantizers(net: Net, codes: str, multiples: np.ndarray) -> str:
    scale, zeros = net.floats(multiples.reshape(-1)), net.bytes(np.zeros(multiples.size))
    one, zero = net.floats(1.0), net.bytes(0)
    value = net.call("QuantizeLinear", net.call("DequantizeLinear", codes, one, zero), scale, zeros, axis=1)
    return net.call("QuantizeLinear", net.call("DequantizeLinear", value, scale, zeros, axis=1), one, zero)


WAYS: dict[str, Callable[[Net, str, np.ndarray], str]] = {
    "none": lambda net, codes, multiples: codes,
    "two QLinearMul": _products,
    "Cast, Mul, Round, Mul, Cast in float": _floats,
    "Cast, Add, Div, Mul, Cast in int32": _integers,
    "quantizers per channel": _quantizers,
}


def model(way: str, shapes: Sequence[tuple[int, int]] = SHAPES) -> bytes:
    """The chain of convolutions with `way` after each; input float [N, 16, 32, 32], output the last codes."""
    random, net = np.random.default_rng(0), Net()
    channels, side = 16, 32
    step, zero = net.floats(STEP), net.bytes(0)
    value = net.call("QuantizeLinear", "input", step, zero)
    for outputs, size in shapes:
        stride = side // size
        weight = net.constant(random.integers(-60, 61, (outputs, channels, 3, 3)), np.int8)
        scales = net.floats(random.uniform(0.5, 1, outputs) / (10 * np.sqrt(9 * channels)))
        zeros = net.constant(np.zeros(outputs), np.int8)
        value = net.call("QLinearConv", value, step, zero, weight, scales, zeros, step, zero, kernel_shape=[3, 3],
                         pads=[1] * 4, strides=[stride] * 2)
        value = net.call("Clip", value, "", net.bytes(105))
        multiples = np.asarray([211, 105, 35, 15, 7])[random.integers(0, 5, outputs)].reshape(-1, 1, 1)
        value, channels, side = WAYS[way](net, value, multiples), outputs, size
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 16, 32, 32])]
    outputs = [helper.make_tensor_value_info(value, TensorProto.UINT8, ["N", channels, side, side])]
    graph = helper.make_graph(net.nodes, "g", inputs, outputs, net.constants)
    opsets = [helper.make_opsetid("", 19), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def measure(way: str, batch: int, runs: int) -> tuple[float, np.ndarray]:
    """Median milliseconds of one run on one thread, and the last codes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model(way), options, providers=["CPUExecutionProvider"])
    images = {"input": np.random.default_rng(1).uniform(0, 5, (batch, 16, 32, 32)).astype(np.float32)}
    codes, seconds = session.run(None, images)[0], []
    for _ in range(runs):
        start = time.perf_counter()
        session.run(None, images)
        seconds.append(time.perf_counter() - start)
    return 1e3 * statistics.median(seconds), codes


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 1 where two ways give different codes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=60)
    runs = parser.parse_args(arguments).runs
    print("| second rounding | milliseconds |\n|---|---|")
    found: list[np.ndarray] = []
    for way in WAYS:
        milliseconds, codes = measure(way, 1, runs)
        print(f"| {way} | {milliseconds:.2f} |", flush=True)
        found += [codes] if way != "none" else []
    return int(any(not np.array_equal(codes, found[0]) for codes in found))


if __name__ == "__main__":
    sys.exit(main())
