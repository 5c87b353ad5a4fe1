"""Quantizers stand where they were asked for, named after what they quantize, OFF, and change no number."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from isobit import passes
from isobit.backends.onnx.target import TARGETS
from isobit.passes import annotate, insert_quantizers, prepare
from isobit.pipeline.graph.nodes import bound_args, is_constant, module_path, quantizer_of, tensor_shape
from isobit.pipeline.graph.ports import name_ports
from isobit.pipeline.graph.quantized_tensors import quantizers
from isobit.pipeline.quant.quantizer import Phase
from isobit.pipeline.recipe.file import load_recipe
from tests.examples import nets, tiny


def annotated(name):
    captured, x = nets.captured_net(name)
    graph = prepare(captured.graph)
    annotate(graph, load_recipe("qdrop_w4a4"), TARGETS["generic"])
    return graph, x


@pytest.mark.parametrize("name", nets.NETS)
def test_numbers_stay_and_a_second_run_inserts_nothing(name):
    graph, x = annotated(name)
    before = nets.run(graph, x)
    assert insert_quantizers(graph)
    assert torch.equal(nets.run(graph, x), before)
    after = nets.snapshot(graph)
    assert not insert_quantizers(graph)
    assert nets.snapshot(graph) == after
    assert {q.phase for q in quantizers(graph).values()} == {Phase.OFF}


def test_every_reader_reads_the_quantizer_and_names_tell_what_it_is():
    graph, _ = annotated("residual")
    insert_quantizers(graph)
    relu = nets.find(graph, "relu")
    (quantizer,) = relu.users
    assert (quantizer.name, quantizer.target) == (f"{relu.name}_q", f"quantizers.{relu.name}_q")
    conv = nets.find(graph, "conv2d", 1)
    assert bound_args(conv)["weight"].name == f"{conv.name}_w"


def test_ports_keep_names_that_quantizers_would_have():
    graph, _ = annotated("residual")
    relu = nets.find(graph, "relu")
    name_ports(graph, outputs=[f"{relu.name}_q"])
    insert_quantizers(graph)
    (quantizer,) = relu.users
    assert (quantizer.name, quantizer.target) == (f"{relu.name}_q_", f"quantizers.{relu.name}_q_")


def test_inserted_nodes_carry_module_unit_and_shape():
    graph, _ = annotated("residual")
    insert_quantizers(graph)
    for node in graph.graph.nodes:
        if quantizer_of(graph, node) is None or node.args[0].op == "placeholder":
            continue
        reader = next(iter(node.users)) if node.name.endswith("_w") else node.args[0]
        assert (module_path(node), node.meta["unit"]) == (module_path(reader), reader.meta["unit"])
        assert tensor_shape(node) == tensor_shape(node.args[0]) != ()


def test_prescribed_grids_have_their_numbers_from_the_start():
    graph, _ = annotated("squeeze")
    insert_quantizers(graph)
    gate = quantizers(graph)[f"{nets.find(graph, 'hardsigmoid').name}_q"]
    assert gate.fixed and float(gate.scale) == pytest.approx(1 / 255) and int(gate.zero_point) == 0
    assert [q.scale for q in quantizers(graph).values() if not q.fixed] == [None] * sum(
        not q.fixed for q in quantizers(graph).values())


class Called(nn.Module):
    """One ReLU module after three layers, or a module of its own after each."""

    def __init__(self, shared: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3, 3, 3, padding=1) for _ in range(3)])
        self.activations = nn.ModuleList([nn.ReLU()] * 3 if shared else [nn.ReLU() for _ in range(3)])
        self.head = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        for place, layer in enumerate(self.layers):
            x = self.activations[place](layer(x))
        return self.head(x.mean((2, 3)))


def test_every_call_of_a_shared_activation_has_a_quantizer_of_its_own() -> None:
    """Rewriters of modules give such a ReLU one range for tensors of very different size: 4 bits collapse there."""
    torch.manual_seed(0)
    images = torch.randn(8, 3, 8, 8)
    shared, own = Called(True).eval(), Called(False).eval()
    own.load_state_dict(shared.state_dict())
    frozen = []
    for model in (shared, own):
        quantized, _ = tiny.quantized_net(TARGETS["generic"], "minmax_w8a8", model, images)
        found = [n for n in quantized.graph.graph.nodes if quantizer_of(quantized.graph, n) and not is_constant(n)]
        assert len({quantizer_of(quantized.graph, node) for node in found}) == len(found) >= 4
        frozen.append(passes.legalize(tiny.calibrate_by_range(quantized, images))[0])
    assert torch.equal(*(reference.evaluate(images) for reference in frozen))
