"""A batch that a file has burnt in follows the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import helper

from isobit.pipeline.errors import InputError
from tests.examples.onnx_files import exported, f32, network, write


def differences(tmp_path, nodes, shape, constants):
    built, origin = network(write(tmp_path / "net.onnx", nodes, {"x": shape}, ["y"], constants))
    samples = origin.random_samples(3)
    assert built(*samples).shape[0] == 3
    with torch.no_grad():
        captured = exported(built, origin.random_samples(2)).module()(*samples)
    assert torch.equal(captured, built(*samples))
    return origin.differences(built, samples)["y"]


@pytest.mark.parametrize("batch", [1, 10])
@pytest.mark.parametrize("sizes", [[-1, 12], ["batch", -1], ["batch", 2, 6], ["batch", 12, 1]])
def test_a_reshape_to_constants(tmp_path, batch, sizes):
    target = np.array([batch if size == "batch" else size for size in sizes])
    nodes = [helper.make_node("Reshape", ["x", "s"], ["y"])]
    assert differences(tmp_path, nodes, [batch, 3, 4], {"s": target}) == 0


def test_windows_become_samples_and_come_back(tmp_path):
    nodes = [
        helper.make_node("Reshape", ["x", "split"], ["a"]),
        helper.make_node("Transpose", ["a"], ["b"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["b", "windows"], ["c"]), helper.make_node("MatMul", ["c", "w"], ["d"]),
        helper.make_node("Reshape", ["d", "back"], ["y"]),
    ]
    constants = {
        "split": np.array([1, 2, 3, 4]), "windows": np.array([3, 2, 4]), "back": np.array([1, 3, 8]), "w": f32(4, 4),
    }
    assert differences(tmp_path, nodes, [1, 6, 4], constants) < 1e-6


def test_the_sequence_first_as_attention_has_it(tmp_path):
    nodes = [
        helper.make_node("Transpose", ["x"], ["a"], perm=[1, 0, 2]), helper.make_node("Reshape", ["a", "heads"], ["b"]),
        helper.make_node("Transpose", ["b"], ["c"], perm=[1, 0, 2]), helper.make_node("Softmax", ["c"], ["d"]),
        helper.make_node("Transpose", ["d"], ["e"], perm=[1, 0, 2]), helper.make_node("Reshape", ["e", "rows"], ["f"]),
        helper.make_node("Gemm", ["f", "w"], ["g"]), helper.make_node("Reshape", ["g", "apart"], ["h"]),
        helper.make_node("Transpose", ["h"], ["y"], perm=[1, 0, 2]),
    ]
    constants = {
        "heads": np.array([5, 2, 4]), "rows": np.array([5, 8]), "apart": np.array([5, 1, 8]), "w": f32(8, 8),
    }
    assert differences(tmp_path, nodes, [1, 5, 8], constants) < 1e-6


def test_a_class_token(tmp_path):
    nodes = [helper.make_node("Concat", ["token", "x"], ["y"], axis=1)]
    assert differences(tmp_path, nodes, [2, 3, 4], {"token": np.repeat(f32(1, 1, 4), 2, axis=0)}) == 0


def test_a_batch_that_stays_is_refused(tmp_path):
    nodes = [helper.make_node("Add", ["x", "c"], ["y"], name="fixed")]
    path = write(tmp_path / "net.onnx", nodes, {"x": [10, 3]}, ["y"], {"c": f32(10, 3)})
    with pytest.raises(InputError, match=r"a batch of 10 alone[\s\S]*node 'fixed'"):
        network(path)


@pytest.mark.parametrize("shape", [["N", 2**63 - 1], ["N", 2**31, 2**31, 2**31], [2**40, 4]])
def test_an_input_larger_than_any_memory(tmp_path, shape):
    with pytest.raises(InputError, match="the input 'x' is of shape"):
        network(write(tmp_path / "a.onnx", [helper.make_node("Relu", ["x"], ["y"])], {"x": shape}, ["y"]))
