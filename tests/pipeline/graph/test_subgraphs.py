"""Sub-graphs are views of the whole; folded constants change no answer, whatever their phase, and are computed once."""

import copy

import pytest
import torch
from torch import nn

from isobit.backends.onnx.target import TARGETS
from isobit.pipeline.capture.capture import capture
from isobit.pipeline.graph.nodes import (
    bias_quantizer_of,
    is_constant,
    op_name,
    quantizer_of,
    record_shapes,
    tensor_shape,
)
from isobit.pipeline.graph.subgraphs import Constant, channels_last, extract, float_network, fold_constants, in_dtype
from isobit.pipeline.quant.quantizer import BiasQuantizer, Phase, Quantizer
from tests.examples import nets, tiny
from tests.examples.tiny import frozen_reference

TARGET = TARGETS["generic"]


def test_the_answers_are_the_same_bits():
    reference, images = frozen_reference(TARGETS["generic"])
    folded = fold_constants(reference.graph)
    with torch.no_grad():
        assert torch.equal(folded(images), reference.graph(images))
    assert torch.equal(fold_constants(reference.graph, torch.float64)(images.double()), reference.evaluate(images))


def test_no_quantizer_of_a_constant_is_left_and_the_graph_stays_as_it_is():
    reference, _ = frozen_reference(TARGETS["generic"])
    folded = fold_constants(reference.graph)
    constants = [node for node in folded.graph.nodes if node.op == "call_module" and is_constant(node)]
    assert constants and all(isinstance(folded.get_submodule(node.target), Constant) for node in constants)
    assert not any(
        isinstance(reference.graph.get_submodule(node.target), Constant)
        for node in reference.graph.graph.nodes if node.op == "call_module"
    )
    left = [node for node in folded.graph.nodes if quantizer_of(folded, node) or bias_quantizer_of(folded, node)]
    assert left and not any(is_constant(node) for node in left)


def on(quantized, x):
    graph = tiny.calibrate_by_range(quantized, x).graph
    for module in graph.modules():
        if isinstance(module, BiasQuantizer):
            module.phase = Phase.ON
    return graph


def composed(graph, x, units, quantized=True):
    """Run the sub-graphs one after another, each fed with the named values of the ones before."""
    values = {next(n for n in graph.graph.nodes if n.op == "placeholder").name: x}
    inside = {name for unit in units for name in unit.nodes}
    entry = [n for n in graph.graph.nodes if n.name not in inside and n.op == "call_module" and not is_constant(n)]
    for node in entry:
        values[node.name] = graph.get_submodule(node.target)(values[node.args[0].name]) if quantized else x
    for unit in units:
        sub = extract(graph, unit.nodes, quantized=quantized)
        assert [n.name for n in sub.graph.nodes if n.op == "placeholder"] == list(sub.input_names)
        results = nets.run_many(sub, [values[name] for name in sub.input_names])
        assert len(results) == len(sub.output_names)
        values.update(zip(sub.output_names, results, strict=True))
    output = next(n for n in graph.graph.nodes if n.op == "output").args[0]
    return values[output.name]


@pytest.mark.parametrize("name", nets.NETS)
def test_units_one_after_another_are_the_whole_graph(name):
    model, x = nets.build(name)
    quantized, x = tiny.quantized_net(TARGET, model=model, images=x)
    graph = on(quantized, x)
    assert torch.equal(composed(graph, x, quantized.units), nets.run(graph, x))
    floating = composed(graph, x, quantized.units, quantized=False)
    assert torch.equal(floating, nets.run(quantized.teacher, x))


def test_sub_graphs_share_parameters_and_quantizers():
    quantized, _ = tiny.quantized_net(TARGET)
    unit = quantized.units[1]
    sub = extract(quantized.graph, unit.nodes)
    whole = dict(quantized.graph.named_modules())
    names = [name for name, module in sub.named_modules() if isinstance(module, Quantizer | BiasQuantizer)]
    assert names and all(sub.get_submodule(name) is whole[name] for name in names)
    parameters = dict(quantized.graph.named_parameters())
    assert all(value is parameters[name] for name, value in sub.named_parameters())
    floating = extract(quantized.graph, unit.nodes, quantized=False)
    assert not [module for module in floating.modules() if isinstance(module, Quantizer | BiasQuantizer)]


def test_inputs_and_outputs_are_in_execution_order():
    class Crossed(nn.Module):
        def forward(self, x):
            a, b = x.relu(), x.sigmoid()
            c = b.tanh()
            d = c + a
            return d * c

    graph = nets.captured_of(Crossed(), 4)[0].graph
    sub = extract(graph, {"tanh", "add"})
    assert sub.input_names == ("relu", "sigmoid")
    assert sub.output_names == ("tanh", "add")


def test_the_float_network_leaves_every_quantizer_out():
    quantized, images = tiny.quantized_net(TARGET)
    network = float_network(quantized.graph)
    assert not any(node.op == "call_module" for node in network.graph.nodes)
    (found,) = network(images)
    torch.testing.assert_close(found, quantized.teacher(images))


def test_kernels_of_two_axes_are_laid_out_channels_last_and_others_stay():
    module = nn.ModuleList([nn.Conv2d(4, 4, 3), nn.Conv3d(4, 4, 3), nn.Linear(4, 4)])
    assert channels_last(module) is module
    assert module[0].weight.is_contiguous(memory_format=torch.channels_last) and module[1].weight.is_contiguous()


def test_a_network_that_asks_for_a_type_runs_in_another():
    class Typed(nn.Module):
        def forward(self, x):
            return (x.float() + torch.zeros(x.shape[0], 1, 1, 1, dtype=torch.float32)).flatten(1)

    captured, x = nets.captured_of(Typed(), 3, 4, 4)
    assert in_dtype(captured.graph, torch.float64)(x.double()).dtype is torch.float64


def test_channels_last_is_torchs_own_for_every_kernel_but_those_of_rank_5():
    net = nn.Sequential(nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3, groups=8))
    theirs = copy.deepcopy(net).to(memory_format=torch.channels_last)
    for ours, other in zip(channels_last(net).parameters(), theirs.parameters(), strict=True):
        assert ours.stride() == other.stride()
    assert channels_last(nn.Conv3d(2, 2, 3)).weight.is_contiguous()


def test_an_operator_keeps_its_name_where_its_source_lies_outside():
    class Neck(nn.Module):
        def __init__(self):
            super().__init__()
            self.deep = nn.Conv2d(3, 4, 3, 2, 1)

        def forward(self, x):
            return nn.functional.interpolate(self.deep(x), scale_factor=2.0)

    graph = capture(Neck().eval(), torch.randn(2, 3, 8, 8)).graph
    record_shapes(graph)
    node = next(node for node in graph.graph.nodes if op_name(node).startswith("upsample"))
    sub = extract(graph, [node.name])
    (source,) = (each for each in sub.graph.nodes if each.op == "placeholder")
    assert tensor_shape(source) == (None, 4, 4, 4)
    assert [op_name(each) for each in sub.graph.nodes if each.op == "call_function"] == ["upsample_nearest2d"]
