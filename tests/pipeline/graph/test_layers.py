"""Names of layers: the module's path where it runs one layer, else the weight's; and which prepare the input."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from isobit.backends.onnx.target import TARGETS
from isobit.passes import prepare, quantize
from isobit.pipeline.graph.calls import Calls
from isobit.pipeline.graph.layers import Layers, after_layers, is_scaling
from isobit.pipeline.recipe.file import load_recipe
from tests.examples import nets

aten = torch.ops.aten


class Standardized(nn.Conv2d):
    """A convolution whose weight is computed."""

    def forward(self, x):
        return F.conv2d(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias, padding=1)


def names(model, *shape):
    return nets.layer_names(prepare(nets.captured_of(model, *shape)[0].graph))


@pytest.mark.parametrize("name", [*nets.NETS])
def test_a_layer_that_is_a_module_has_its_path(name):
    calls = Calls(prepare(nets.captured_net(name)[0].graph))
    layers = Layers(calls)
    assert len(layers) and all(layers.name(call) == call.module for call in calls if call.op)


def test_layers_of_one_module_are_named_after_their_weights():
    assert names(nets.Functional()) == ["w0", "inner.0", "inner.1", "inner.2", "inner.3", "c", "fw"]
    wrapped = nn.Sequential(nn.Sequential(nets.Functional()), nn.Linear(5, 2))
    assert names(wrapped) == ["0.0." + name for name in ("w0", "inner.0", "inner.1", "inner.2", "inner.3", "c", "fw")] \
        + ["1"]


def test_computed_weights_leave_the_module_or_the_node_to_name_the_layer():
    assert names(nn.Sequential(Standardized(3, 4, 3), nn.ReLU(), Standardized(4, 4, 3))) == ["0", "2"]

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.randn(4, 3, 1, 1)), nn.Parameter(torch.randn(4, 4, 1, 1))

        def forward(self, x):
            return F.conv2d(F.conv2d(x, self.a * 2), self.b * 2)

    found = names(Two())
    assert found == ["conv2d", "conv2d_1"]
    assert names(nn.Sequential(Two(), nn.Conv2d(4, 2, 1))) == ["0.conv2d", "0.conv2d_1", "1"]


def test_constants_are_called_as_the_layer_that_reads_them():
    captured, _ = nets.captured_of(nets.Functional())
    graph = quantize(captured, load_recipe("qdrop_w4a4"), TARGETS["generic"]).graph
    calls = Calls(graph)
    layers = Layers(calls)
    constants = {call.name: layers.name(call) for call in calls if call.constant}
    assert constants["conv2d_w"] == constants["conv2d_b"] == "w0" and constants["linear_w"] == "fw"
    assert layers.name(calls[nets.find(graph, "relu")]) == ""


@pytest.mark.parametrize(
    ("conv", "expected"),
    [
        (nn.Conv2d(3, 3, 1, groups=3), True), (nn.Conv2d(3, 3, 1), False), (nn.Conv2d(3, 6, 1, groups=3), False),
        (nn.Conv2d(3, 3, 1, groups=3, stride=2), False), (nn.Conv2d(3, 3, 1, groups=3, padding=1), False),
        (nn.Conv2d(3, 3, (1, 3), groups=3), False),
    ],
)  # fmt: skip
def test_a_factor_and_a_shift_for_each_channel_is_a_scaling(conv, expected):
    graph = prepare(nets.captured_of(nn.Sequential(conv, nn.ReLU()))[0].graph)
    assert is_scaling(nets.find_call(graph, "conv2d")) is expected
    assert not is_scaling(nets.find_call(graph, "relu"))


@pytest.mark.parametrize("fixed", [True, False])
def test_what_stands_before_the_first_layer_that_learned(fixed):
    class Colours(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.a, self.inner = nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
            self.yuv = nn.Parameter(torch.randn(3, 3, 1, 1))
            if fixed:
                del self.yuv
                self.register_buffer("yuv", torch.randn(3, 3, 1, 1))

        def forward(self, x):
            return self.inner(F.relu(self.a(F.conv2d(self.norm(x), self.yuv))))

    layers = Layers(Calls(prepare(nets.captured_of(Colours())[0].graph)))
    norm, yuv, _, _ = layers
    assert layers.preparing() == ({norm, yuv} if fixed else {norm})


def last(captured):
    layers = Layers(Calls(prepare(captured.graph)))
    return [layers.name(layer) for layer in layers.last()]


def test_every_head_is_last():
    assert last(nets.captured_net("residual")[0]) == ["fc"]

    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.box, self.score = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            x = F.relu(self.body(x))
            return torch.cat([self.box(x), self.score(x).sigmoid()], 1)

    assert last(nets.captured_of(Heads())[0]) == ["box", "score"]


class Scored(nn.Module):
    """A softmax and a product before the last layer, a softmax and a sum after it."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        y = torch.softmax(self.first(x), 1)
        scores = torch.softmax(self.last(y), 1)
        return scores + 1, torch.exp(y)


def ends(graph):
    calls = Calls(graph)
    after = after_layers(calls)
    return [call.op for call in calls if call in after]


@pytest.mark.parametrize("name", ["mv", "dot", "outer"])
def test_products_of_vectors_are_layers_too(name):
    graph = fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    before = graph.call_function(aten.exp.default, (x,))
    product = graph.call_function(getattr(aten, name).default, (before, y))
    after = graph.call_function(aten.abs.default, (product,))
    graph.output(after)
    made = fx.GraphModule({}, graph)
    assert ends(made) == ["abs"]


def test_what_lies_after_the_last_layer():
    graph = prepare(nets.captured_of(Scored().eval(), 4)[0].graph)
    assert ends(graph) == [
        "softmax", "add_constant", "exp"]
