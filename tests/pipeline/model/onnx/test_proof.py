"""The network is compared with what ONNX Runtime says of the file."""

from __future__ import annotations

import pytest
import torch
from onnx import TensorProto, helper

from isobit.pipeline.errors import InputError
from tests.examples.onnx_files import f32, network, write

pytestmark = pytest.mark.onnxruntime


def test_a_fixed_batch_is_filled_and_the_difference_told(tmp_path):
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"]), helper.make_node("Relu", ["y"], ["z"])]
    built, origin = network(write(tmp_path / "a.onnx", nodes, {"x": [10, 3]}, ["y", "z"], {"w": f32(3, 2)}))
    note = origin.check(built, origin.random_samples(3))
    assert "a.onnx" in note and "3 samples, 2 outputs" in note


def test_an_output_that_differs_is_refused_by_name(tmp_path):
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"]), helper.make_node("Relu", ["y"], ["z"])]
    built, origin = network(write(tmp_path / "a.onnx", nodes, {"x": ["N", 3]}, ["z"], {"w": f32(3, 2)}))
    next(built.parameters()).mul_(1.001)
    with pytest.raises(InputError, match="the output 'z' as read differs"):
        origin.check(built, origin.random_samples())


def test_integers_keep_their_kind(tmp_path):
    nodes = [helper.make_node("Gather", ["table", "x"], ["y"])]
    kinds = {"x": TensorProto.INT32}
    path = write(tmp_path / "a.onnx", nodes, {"x": ["N", 4]}, ["y"], {"table": f32(9, 3)}, kinds=kinds)
    built, origin = network(path)
    samples = origin.random_samples(2)
    assert samples[0].dtype is torch.int32 and origin.differences(built, samples)["y"] == 0


def test_a_file_that_does_not_run_is_told(tmp_path):
    nodes = [helper.make_node("Relu", ["x"], ["y"], attribute_of_nobody=1)]
    built, origin = network(write(tmp_path / "a.onnx", nodes, {"x": ["N", 4]}, ["y"]))
    with pytest.raises(InputError, match="ONNX Runtime does not run the file"):
        origin.check(built, origin.random_samples(2))
