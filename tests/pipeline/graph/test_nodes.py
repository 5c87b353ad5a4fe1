"""Names, arguments, origins and insertion."""

from __future__ import annotations

import operator

import pytest
import torch
from torch import fx

from isobit.backends.onnx.target import TARGETS
from isobit.passes import prepare
from isobit.pipeline.graph import nodes as G
from isobit.pipeline.quant.grid import Grid, QuantSpec
from isobit.pipeline.quant.quantizer import Quantizer
from tests.examples import nets, tiny

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
        (aten.sub.Tensor, ("x", 1), {}, "sub_constant"),
        (aten.sub.Tensor, ("w", "x"), {}, "sub"),
        (aten.sub.Tensor, ("x", "y"), {"alpha": 2}, "sub_scaled"),
        (aten.rsub.Tensor, ("x", "y"), {"alpha": 2}, "rsub_scaled"),
        (aten.rsub.Scalar, ("x", 1), {}, "rsub_constant"),
        (aten.rsub.Scalar, ("x", 1, 2), {}, "rsub_scaled"),
        (aten.div.Tensor, ("x", "w"), {}, "div_constant"),
        (aten.div.Tensor, ("x", "y"), {}, "div"),
        (aten.div.Tensor_mode, ("x", 2), {"rounding_mode": "floor"}, "div_rounded"),
        (aten.pow.Tensor_Scalar, ("x", 3), {}, "pow"),
        (aten.pow.Scalar, (2, "x"), {}, "pow_of_number"),
        (aten.pow.Tensor_Tensor, ("x", "y"), {}, "pow_of_tensors"),
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
        (aten.linear.default, ("x", "w"), {}, "linear"),
        (aten.relu.default, ("x",), {}, "relu"),
        (operator.mul, ("x", "y"), {}, "python_mul"),
        (operator.getitem, ("x", 0), {}, "python_getitem"),
    ],
)
def test_canonical_names(target, args, kwargs, name):
    assert G.op_name(call(target, *args, constants=1, **kwargs)) == name


@pytest.mark.parametrize(("shape", "name"), [
    ((4, 1, 1), "add_constant"), ((1, 4, 1, 1), "add_constant"), ((1,), "add_constant"), ((6,), "add_parameter"),
    ((4, 6, 6), "add_parameter"),
])
def test_constants_that_differ_within_a_channel_have_another_name(shape, name):
    node = call(aten.add.Tensor, "x", "w", constants=1)
    node.meta["shape"], node.args[1].meta["shape"] = (None, 4, 6, 6), shape
    assert G.op_name(node) == name


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


FOREIGN = (
    f"{torch.__path__[0]}/nn/modules/conv.py", "/elsewhere/site-packages/torch/nn/functional.py",
    r"C:\py\site-packages\torch\nn\modules\conv.py", G.__file__, "<eval_with_key>.3", "<string>",
)  # fmt: skip


@pytest.mark.parametrize(("files", "expected"), [
    ((), ""), (("/a/net.py",), "net.py:1"), (("/a/net.py", "/b/block.py"), "block.py:2"),
    ((r"C:\a\net.py", *FOREIGN), "net.py:1"), (FOREIGN, ""), (("/a/torch/net.py",), "net.py:1"),
])  # fmt: skip
def test_a_line_is_of_the_user_never_of_torch_or_ours(files, expected):
    node = fx.Graph().placeholder("x")
    node.meta["stack_trace"] = "".join(f'  File "{file}", line {n + 1}, in forward\n' for n, file in enumerate(files))
    assert G.source_line(node) == expected


def test_what_a_file_s_node_became_names_that_node():
    node = fx.Graph().placeholder("x")
    node.meta.update(stack_trace='File "/a/net.py", line 3', file_node="Conv node 'stem'")
    assert (G.source_line(node), G.where(node)) == ("Conv node 'stem'", "node x (Conv node 'stem')")


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


def test_constants_are_parameters_and_their_quantizers():
    graph = tiny.quantized_net(TARGET)[0].graph
    for node in graph.graph.nodes:
        assert G.is_constant(node) == (node.op == "get_attr" or node.name.endswith(("_w", "_b"))), node


def test_finish_drops_dead_code(residual):
    with residual.graph.inserting_after(nets.find(residual, "conv2d")):
        dead = residual.graph.call_function(aten.relu.default, (nets.find(residual, "conv2d"),))
    G.finish(residual)
    assert dead not in list(residual.graph.nodes)



def test_operands_are_nodes_or_named_as_what_they_are():
    node = call(aten.add.Tensor, "x", 1)
    assert G.source_of(node).name == "x"
    with pytest.raises(TypeError, match="argument 1 of node add.* is 1, not the value of a node"):
        G.source_of(node, 1)


def test_an_overload_is_an_aten_operator():
    assert G.overload_of(call(aten.add.Tensor, "x", "y")) is aten.add.Tensor
    for what in (G.overload_of, G.bound_args):
        with pytest.raises(TypeError, match="not an ATen operator"):
            what(call(operator.mul, "x", 2))
