"""Constants once, short names, one function for groups of one structure; the numbers do not change."""

import itertools

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from isobit.backends.onnx.graph_writer import GraphWriter, _short_names

pytestmark = pytest.mark.onnxruntime


def serialized(writer, source, output, shape=(4,)):
    model = ir.to_proto(writer.model([source], [(output, shape, torch.float32)], ("isobit", "1")))
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model, x):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": x})[0]


def chain(writer, steps, *, grouped):
    """input -> (x * a + b).sum over an axis, kept, for each of (a, b, axis)."""
    value = source = writer.input("input", (4,))
    for index, (a, b, axis) in enumerate(steps):
        name = "logits" if index == len(steps) - 1 else f"step{index}"
        parts = (np.asarray(a, np.float32), np.asarray(b, np.float32), axis, name)
        if grouped:
            with writer.group():
                value = step(writer, value, *parts)
        else:
            value = step(writer, value, *parts)
    return source, value


def step(writer, value, a, b, axis, name):
    scaled = writer.call("Add", [writer.call("Mul", [value, writer.constant(a)]), writer.constant(b)])
    return writer.call("Softmax", [scaled], {"axis": axis}, name=name)


def test_equal_constants_are_stored_once_and_scalars_stay_scalars():
    writer = GraphWriter()
    first = writer.constant(np.asarray(2, np.float32))
    assert writer.constant(np.asarray(2, np.float32)) is first
    assert first.shape == ir.Shape([])
    assert writer.constant(np.asarray([2], np.float32)) is not first
    assert writer.constant(np.asarray(2, np.int32)) is not first


def test_short_names_are_unique_and_never_a_name_of_a_graph_node():
    names = list(itertools.islice(_short_names(), 5000))
    assert len(set(names)) == 5000 and max(map(len, names)) == 3
    assert not any(name.isidentifier() for name in names)


def test_groups_of_one_structure_become_one_function_with_what_differs_as_attributes():
    steps = [(1.5, 0.25, 1), (2.5, 0.5, 0), (0.5, 0.25, 1)]
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    plain = serialized(*(lambda w: (w, *chain(w, steps, grouped=False)))(GraphWriter()))
    shared = serialized(*(lambda w: (w, *chain(w, steps, grouped=True)))(GraphWriter()))
    assert len(shared.functions) == 1 and len(shared.graph.node) == 3
    assert len(shared.functions[0].attribute) == 1
    assert [node.output[0] for node in shared.graph.node] == ["step0", "step1", "logits"]
    assert not plain.functions and len(plain.graph.node) == 9
    assert np.array_equal(run(plain, x), run(shared, x))


def test_an_attribute_that_is_always_the_same_stays_in_the_function():
    writer = GraphWriter()
    model = serialized(writer, *chain(writer, [(1.5, 0.25, 1), (2.5, 0.5, 1)], grouped=True))
    assert len(model.functions) == 1 and not model.functions[0].attribute


def test_a_structure_that_occurs_once_is_written_out():
    writer = GraphWriter()
    model = serialized(writer, *chain(writer, [(1.5, 0.25, 1)], grouped=True))
    assert not model.functions and len(model.graph.node) == 3


def test_two_readers_of_one_value_are_another_structure_than_two_values():
    writer = GraphWriter()
    source = writer.input("input", (4,))
    with writer.group():
        both = writer.call("Add", [writer.call("Neg", [source]), writer.call("Neg", [source])])
    with writer.group():
        other = writer.call("Add", [writer.call("Neg", [both]), writer.call("Neg", [source])], name="logits")
    assert not serialized(writer, source, other).functions
