"""Names, arguments, origins, insertion, and sub-graphs that are views of the whole."""

from __future__ import annotations

import operator

import pytest
import torch
from torch import fx, nn

from backends.onnx_qdq.target import TARGETS
from passes import prepare
from pipeline import graph as G
from pipeline.grid import Grid, QuantSpec
from pipeline.quantizer import BiasQuantizer, Phase, Quantizer
from tests import nets, tiny

aten = torch.ops.aten
TARGET = TARGETS["generic"]


@pytest.fixture(scope="module")
def residual():
    return prepare(nets.captured_net("residual")[0].graph)


def call(target, *args, shape=(None, 4, 6, 6), constants=0, **kwargs):
    """One node `target(x, y, ..., constants...)`, its inputs having `shape`."""
    graph = fx.Graph()
    inputs = []
    for name in "xy":
        inputs.append(graph.placeholder(name))
        inputs[-1].meta["shape"] = shape
    weight = graph.get_attr("w") if constants else None
    names = {"x": inputs[0], "y": inputs[1], "w": weight}
    return graph.call_function(target, tuple(names.get(a, a) if isinstance(a, str) else a for a in args), kwargs)


@pytest.mark.parametrize(
    ("target", "args", "kwargs", "name"),
    [
        (aten.add.Tensor, ("x", "y"), {}, "add"),
        (aten.add.Tensor, ("x", 1), {}, "add_constant"),
        (aten.add.Tensor, ("x", "w"), {}, "add_constant"),
        (aten.add.Tensor, ("x", "y"), {"alpha": 2}, "add_scaled"),
        (aten.mul.Tensor, ("x", "y"), {}, "mul"),
        (aten.mul.Tensor, ("w", "x"), {}, "mul_constant"),
        (aten.mean.dim, ("x", [2, 3], True), {}, "mean"),
        (aten.mean.dim, ("x", [-1, -2], True), {}, "mean"),
        (aten.mean.dim, ("x", [2, 3]), {}, "mean_over_dims"),
        (aten.mean.dim, ("x", [1], True), {}, "mean_over_dims"),
        (aten.mean.default, ("x",), {}, "mean_over_dims"),
        (aten.pad.default, ("x", [1, 1]), {}, "pad"),
        (aten.pad.default, ("x", [1, 1], "reflect"), {}, "pad_reflect"),
        (aten.pad.default, ("x", [1, 1], "constant", 1.0), {}, "pad_with_value"),
        (aten.reshape.default, ("x", [-1, 4]), {}, "view"),
        (aten.view.default, ("x", [-1, 4]), {}, "view"),
        (aten.conv2d.default, ("x", "w"), {}, "conv2d"),
        (aten.conv2d.default, ("x", "y"), {}, "conv2d_dynamic"),
        (aten.conv2d.default, ("x", "w", "y"), {}, "conv2d_dynamic"),
        (aten.linear.default, ("x", "w"), {}, "linear_4d"),
        (aten.relu.default, ("x",), {}, "relu"),
        (operator.mul, ("x", "y"), {}, "python_mul"),
        (operator.getitem, ("x", 0), {}, "python_getitem"),
    ],
)
def test_canonical_names(target, args, kwargs, name):
    assert G.op_name(call(target, *args, constants=1, **kwargs)) == name


def test_linear_over_features_and_other_nodes():
    assert G.op_name(call(aten.linear.default, "x", "w", shape=(None, 4), constants=1)) == "linear"
    assert G.op_name(fx.Graph().placeholder("x")) == ""


def test_arguments_by_name_with_defaults():
    node = call(aten.conv2d.default, "x", "w", None, [2, 2], constants=1, groups=4)
    args = G.bound_args(node)
    assert list(args) == ["input", "weight", "bias", "stride", "padding", "dilation", "groups"]
    assert (args["bias"], args["stride"], args["padding"], args["groups"]) == (None, [2, 2], [0, 0], 4)


def test_setting_arguments_positional_and_by_keyword():
    node = call(aten.conv2d.default, "x", "w", constants=1, groups=1)
    G.set_argument(node, "input", "y")
    G.set_argument(node, "groups", 2)
    G.set_argument(node, "stride", [3, 3])
    assert (node.args[0], G.bound_args(node)["groups"], G.bound_args(node)["stride"]) == ("y", 2, [3, 3])


def test_origin_of_a_layer_is_the_line_of_the_user(residual):
    conv = nets.find(residual, "conv2d", 1)
    assert G.module_path(conv) == "blocks.0.conv1"
    assert G.source_line(conv).startswith("nets.py:")
    assert G.where(conv) == f"node {conv.name} (blocks.0.conv1, {G.source_line(conv)})"
    assert [kind.rpartition(".")[2] for _, kind in G.module_stack(conv)][-2:] == ["Block", "Conv2d"]


def test_a_node_without_origin_has_no_phrase():
    node = fx.Graph().placeholder("x")
    assert (G.module_path(node), G.source_line(node), G.module_stack(node), G.where(node)) == ("", "", [], "node x")


def test_shapes_hold_none_for_the_batch(residual):
    assert G.tensor_shape(nets.find(residual, "conv2d")) == (None, 8, 12, 12)
    assert G.tensor_shape(nets.find(residual, "linear")) == (None, 5)
    assert G.tensor_shape(fx.Graph().placeholder("x")) == ()


def test_attributes_are_made_where_folders_are_missing(residual):
    G.set_attribute(residual, "a.b.weight", torch.ones(2))
    node = residual.graph.get_attr("a.b.weight")
    assert torch.equal(G.get_attribute(residual, node), torch.ones(2))
    assert not residual.a.b.weight.requires_grad
    residual.graph.erase_node(node)


def test_inserted_nodes_carry_origin_shape_and_name():
    graph = prepare(nets.captured_net("residual")[0].graph)
    conv = nets.find(graph, "conv2d")
    graph.add_submodule("quantizers.here", Quantizer(QuantSpec(Grid(8, True), True)))
    module = G.insert_module(graph, conv, "quantizers.here", conv)
    function = G.insert_call(graph, conv, aten.relu.default, (conv,), after=module)
    assert (module.name, G.tensor_shape(module), module.prev) == ("here", (None, 8, 12, 12), conv)
    assert function.prev is module
    for node in (module, function):
        assert (G.module_path(node), node.meta["unit"]) == (G.module_path(conv), conv.meta["unit"])


def test_quantizers_once_each_in_execution_order():
    quantized, _ = tiny.quantized_net(TARGET)
    graph = quantized.graph
    found = G.quantizers(graph)
    assert list(found) == [n.name for n in graph.graph.nodes if G.quantizer_of(graph, n) is not None]
    first = next(n for n in graph.graph.nodes if n.op == "call_module" and n.name != "x_q")
    nodes = {n.name: n for n in graph.graph.nodes}
    nodes["relu_q"].target = nodes["x_q"].target
    assert "relu_q" not in G.quantizers(graph)
    assert G.quantizer_of(graph, first) is not None


def test_constants_are_parameters_and_their_quantizers():
    graph = tiny.quantized_net(TARGET)[0].graph
    for node in graph.graph.nodes:
        assert G.is_constant(node) == (node.op == "get_attr" or node.name.endswith(("_w", "_b"))), node


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
    entry = [n for n in graph.graph.nodes if n.name not in inside and n.op == "call_module" and not G.is_constant(n)]
    for node in entry:
        values[node.name] = graph.get_submodule(node.target)(values[node.args[0].name]) if quantized else x
    for unit in units:
        sub = G.extract(graph, unit.nodes, quantized=quantized)
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
    sub = G.extract(quantized.graph, unit.nodes)
    whole = dict(quantized.graph.named_modules())
    names = [name for name, module in sub.named_modules() if isinstance(module, Quantizer | BiasQuantizer)]
    assert names and all(sub.get_submodule(name) is whole[name] for name in names)
    parameters = dict(quantized.graph.named_parameters())
    assert all(value is parameters[name] for name, value in sub.named_parameters())
    floating = G.extract(quantized.graph, unit.nodes, quantized=False)
    assert not [module for module in floating.modules() if isinstance(module, Quantizer | BiasQuantizer)]


def test_inputs_and_outputs_are_in_execution_order():
    class Crossed(nn.Module):
        def forward(self, x):
            a, b = x.relu(), x.sigmoid()
            c = b.tanh()
            d = c + a
            return d * c

    graph = nets.captured_of(Crossed(), 4)[0].graph
    sub = G.extract(graph, {"tanh", "add"})
    assert sub.input_names == ("relu", "sigmoid")
    assert sub.output_names == ("tanh", "add")


def test_finish_drops_dead_code(residual):
    with residual.graph.inserting_after(nets.find(residual, "conv2d")):
        dead = residual.graph.call_function(aten.relu.default, (nets.find(residual, "conv2d"),))
    G.finish(residual)
    assert dead not in list(residual.graph.nodes)


def test_absorbed_stops_at_another_operator_and_at_a_second_reader():
    graph = fx.Graph()
    x = graph.placeholder("x")
    layer = graph.call_function(aten.neg.default, (x,))
    first = graph.call_function(aten.relu.default, (layer,))
    second = graph.call_function(aten.hardtanh.default, (first, 0.0, 6.0))
    graph.output(graph.call_function(aten.add.Tensor, (second, second)))
    assert G.absorbed(layer, {"relu", "hardtanh"}) == (first, second)
    assert G.absorbed(layer, {"relu"}) == (first,)
    graph.call_function(aten.neg.default, (first,))
    assert G.absorbed(layer, {"relu", "hardtanh"}) == (first,)


def test_the_float_network_leaves_every_quantizer_out():
    quantized, images = tiny.quantized_net(TARGET)
    network = G.float_network(quantized.graph)
    assert not any(node.op == "call_module" for node in network.graph.nodes)
    (found,) = network(images)
    torch.testing.assert_close(found, quantized.teacher(images))
