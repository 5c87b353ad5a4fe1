"""Operators on constants: as a session computes them, and nothing else."""

import numpy as np
import onnx
import pytest
from onnx.reference.ops import load_op

from isobit.backends.onnx.readback.folding import folded
from isobit.backends.onnx.readback.vocabulary import OPSET

BYTES = np.arange(24, dtype=np.uint8).reshape(4, 6)
WIDE = BYTES.astype(np.int32)
CASES = {
    "Cast": ([BYTES], {"to": onnx.TensorProto.INT32}),
    "Gather": ([BYTES, np.int32([[0, -1], [2, 1]])], {"axis": 0}),
    "Reshape": ([BYTES, np.asarray([3, -1])], {}),
    "Slice": ([BYTES, np.asarray([1, 2]), np.asarray([9, 5])], {}),
    "Concat": ([BYTES, BYTES + 1], {"axis": 1}),
    "Expand": ([BYTES[:1], np.asarray([4, 6])], {}),
    "Transpose": ([BYTES], {"perm": [1, 0]}),
    "Add": ([WIDE, WIDE[:1]], {}),
    "Sub": ([WIDE, WIDE[:1]], {}),
    "Mul": ([np.float32(0.7), np.float32([0.1, 3.3])], {}),
}


@pytest.mark.parametrize("op", CASES)
def test_as_the_standard_computes_it(op):
    inputs, attributes = CASES[op]
    names = [f"x{place}" for place in range(len(inputs))]
    node = onnx.helper.make_node(op, names, ["y"], **attributes)
    wanted = load_op("", op, OPSET).eval(*inputs, **attributes) if op != "Cast" else inputs[0].astype(np.int32)
    found = folded(op, inputs, attributes)
    assert node.op_type == op and found.dtype == np.asarray(wanted).dtype and np.array_equal(found, wanted)


def test_slices_along_axes_with_steps():
    places = [np.asarray([value]) for value in (1, 2**63 - 1, 1, 2)]
    assert np.array_equal(folded("Slice", [BYTES, *places], {}), BYTES[:, 1::2])


@pytest.mark.parametrize(("op", "inputs", "attributes"), [
    ("Relu", [BYTES], {}),
    ("Add", [WIDE, BYTES], {}),
    ("Add", [WIDE.astype(np.int64), WIDE.astype(np.int64)], {}),
    ("Gather", [BYTES, np.int32([9])], {"axis": 0}),
    ("Gather", [BYTES, np.int64([0, 1, 2, 3])], {"axis": 0}),
    ("Gather", [BYTES, np.int32([0, 1, 2])], {"axis": 0}),
    ("Gather", [BYTES, np.int32([0, 1, 2])], {"axis": 1}),
    ("Gather", [np.int8([5, 6, 7]), np.int32([0, 1, 0])], {"axis": 0}),
    ("Mul", [np.float32([0.1, 3.3]), np.float32(0.7)], {}),
    ("Mul", [np.float32([0.7]), np.float32([0.1, 3.3])], {}),
    ("Reshape", [BYTES, np.asarray([5, 5])], {}),
    ("Reshape", [BYTES, np.asarray([0, 6])], {}),
    ("Reshape", [BYTES, np.asarray([-2, 6])], {}),
    ("Transpose", [BYTES], {"perm": [0, 0]}),
    ("Concat", [BYTES, WIDE[:1].T], {"axis": 0}),
    ("Cast", [BYTES], {"to": onnx.TensorProto.INT32, "saturate": 0}),
])
def test_what_does_not_fit_is_left_as_an_operator(op, inputs, attributes):
    assert folded(op, inputs, attributes) is None


def fields(bits, step=1, offset=0):
    return ((np.arange(256)[:, None] >> np.arange(8 // bits) * bits & (1 << bits) - 1) * step - offset).astype(np.int8)


@pytest.mark.parametrize(("bits", "step", "offset"), [(4, 1, 8), (2, 2, 4), (1, 1, 0), (2, 1, 2)])
def test_a_table_of_fields_is_read_whole(bits, step, offset):
    table, index = fields(bits, step, offset), np.int32([3, 200, 0])
    assert np.array_equal(folded("Gather", [table, index], {"axis": 0}), table[index])
    for place in (0, 1, 77, 255):
        wrong = table.copy()
        wrong[place, -1] += 1
        assert folded("Gather", [wrong, index], {"axis": 0}) is None


def test_what_a_palette_repeats_may_be_left_unread():
    palette = np.int8([5, 6, 5, 6])
    assert folded("Gather", [palette, np.int32([0, -1, 0])], {"axis": 0}).tolist() == [5, 6, 5]
