"""Layers are called as in the network that was exported."""

from __future__ import annotations

import pytest
import torch

from isobit.pipeline.model.onnx.graph import Graph, Node
from isobit.pipeline.model.onnx.names import module_paths


def paths(*nodes: Node, constants: tuple[str, ...] = ("w",)) -> tuple[str, ...]:
    return module_paths(Graph(nodes, {name: torch.zeros(1) for name in constants}, (), (), 17))


def node(name: str, op: str = "Conv", weight: str = "w", scope: str = "") -> Node:
    return Node(op, name, ("x", weight), (f"{name}_out",), {}, scope)


@pytest.mark.parametrize(("name", "path"), [
    ("/layer1/layer1.0/conv1/Conv", "layer1.0.conv1"),
    ("/features/features.0/features.0.0/Conv_2", "features.0.0"),
    ("p2o.Conv.0", "p2o_Conv_0"),
    ("model/conv2d/Conv2D;model/conv2d/BiasAdd", "model.conv2d.Conv2D"),
    ("/forward/train/Conv", "forward_.train_"),
    ("for", "for_"), ("/class/Conv", "class_"),
])
def test_from_the_name_of_a_node(name, path):
    assert paths(node(name)) == (path,)


def test_what_the_exporter_wrote_down_and_the_name_of_the_weight():
    assert paths(node("node_conv2d_7", scope="layer1.0.conv1")) == ("layer1.0.conv1",)
    assert paths(node("", weight="backbone.0.weight"), constants=("backbone.0.weight",)) == ("backbone.0",)


def test_paths_are_unique_and_none_is_below_another():
    found = paths(node("/a/Conv"), node("/a/Conv"), node("/a", op="Add"), node("/a/b/Conv"), node("/a/b/Relu", "Relu"))
    assert len(set(found)) == len(found)
    assert not any(one != other and other.startswith(f"{one}.") for one in found for other in found)
