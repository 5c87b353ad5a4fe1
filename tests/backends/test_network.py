"""The network as pages draw it: the rows of the placement table, each with what it reads."""

from __future__ import annotations

import torch
from torch import nn

from isobit.backends.network import network_nodes
from isobit.backends.onnx.target import TARGETS
from isobit.backends.placement import placement_table
from tests.examples.tiny import quantized_net


def nodes(**kwargs):
    quantized, _ = quantized_net(TARGETS["vnni"], **kwargs)
    found = network_nodes(quantized.graph, quantized.target, quantized.units)
    assert [node.name for node in found] == [row.name for row in placement_table(quantized.graph, quantized.target)]
    return {node.name: node for node in found}


def test_steps_read_one_another_and_name_their_weights_and_units():
    found = nodes()
    assert found["x_q"].reads == [] and found["relu_q"].reads == ["x_q"]
    added = next(node for node in found.values() if node.op.startswith("add"))
    assert set(added.reads) == {"relu_q", "conv2d_2_q"}
    assert found["relu_q"].weight_tensor == "conv2d_w" and added.weight_tensor is None
    assert found["linear"].unit and found["relu_q"].shape == [8, 8, 8]


def test_float_operators_are_steps_as_well():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 3)).eval()
    found = nodes(model=model, images=torch.randn(4, 3, 8, 8))
    gelu = next(node for node in found.values() if node.op == "gelu")
    assert gelu.runs == "float" and gelu.note and gelu.reads and any(gelu.name in node.reads for node in found.values())
