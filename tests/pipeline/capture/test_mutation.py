"""A captured network changes neither its input nor its buffers; where answers depend on such a change it is refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from isobit.pipeline.capture.capture import capture
from isobit.pipeline.errors import CaptureError
from tests.examples import nets


class Call(nn.Module):
    """A function of the module (a convolution, a counter, a mean) and the input as a model."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function, self.conv = function, nn.Conv2d(3, 4, 1)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(3, 1, 1))

    def forward(self, x):
        return self.function(self, x)


def subtract(net, x):
    x -= 0.5
    x *= 2.0
    return net.conv(x)


def part(net, x):
    x[:, 0] -= 1.0
    return net.conv(x)


WRITES_TO_ITS_INPUT = [
    subtract,
    part,
    lambda net, x: net.conv(F.relu(x, inplace=True)),
    lambda net, x: net.conv(x.view(-1, 3, 16).mul_(2.0).view(-1, 3, 4, 4)),
    lambda net, x: net.conv(F.dropout(x, 0.5, training=net.training).add_(1.0)),
    lambda net, x: net.conv(x.clamp_(0, 1)) + x.mean((1, 2, 3), keepdim=True),
]


@pytest.mark.parametrize("function", WRITES_TO_ITS_INPUT)
def test_the_caller_s_input_stays_and_answers_are_those_of_the_network(function):
    model, x = Call(function).eval(), torch.randn(6, 3, 4, 4)
    graph, given = capture(model, x[:1]).graph, x.clone()
    assert torch.equal(nets.run(graph, given), nets.run(model, x.clone()))
    assert torch.equal(given, x)
    assert torch.equal(nets.run(graph, given), nets.run(graph, given))


def test_a_network_that_writes_to_its_input_is_the_same_after_export_with_functional_operators():
    model, x = Call(subtract).eval(), torch.randn(6, 3, 4, 4)
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    program = torch.export.export(model, (torch.zeros(2, 3, 4, 4),), dynamic_shapes=shapes).run_decompositions({})
    given = x.clone()
    assert torch.allclose(nets.run(capture(program, x[:1]).graph, given), nets.run(model, x.clone()))
    assert torch.equal(given, x)


def test_a_network_that_leaves_its_input_alone_gets_no_copy():
    captured, _ = nets.captured_net("residual")
    assert not [node for node in captured.graph.graph.nodes if "clone" in str(node.target)]


def counted(net, x):
    net.count += 1
    return net.conv(x)


def averaged_aside(net, x):
    net.mean.mul_(0.9).add_(0.1 * x.mean((0, 2, 3)).view(3, 1, 1))
    return net.conv(x)


@pytest.mark.parametrize("function", [counted, averaged_aside])
def test_state_that_no_answer_depends_on_is_dropped(function):
    model = Call(function).eval()
    graph = capture(model, torch.zeros(1, 3, 4, 4)).graph
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(nets.run(graph, x), nets.run(model.conv, x))
    assert float(model.count) == 0 and not [node for node in graph.graph.nodes if node.op == "call_function"][1:]


def scaled_by_count(net, x):
    net.count += 1
    return net.conv(x) * net.count


def reassigned(net, x):
    net.count = net.count + 1
    return net.conv(x) * net.count


def running_mean(net, x):
    net.mean.mul_(0.9).add_(0.1 * x.mean((0, 2, 3)).view(3, 1, 1))
    return net.conv(x - net.mean)


def written_through_a_result(net, x):
    y = net.conv(x)
    y.mul_(net.count.add_(1))
    return y


def old_value(net, x):
    y = net.conv(x) * net.count
    net.count.add_(1)
    return y


@pytest.mark.parametrize("function", [scaled_by_count, reassigned, running_mean, written_through_a_result, old_value])
def test_state_that_answers_depend_on_is_refused_by_its_name_and_line(function):
    with pytest.raises(CaptureError) as error:
        capture(Call(function).eval(), torch.zeros(1, 3, 4, 4))
    assert ("'mean'" if function is running_mean else "'count'") in error.value.what
    assert "test_mutation.py:" in error.value.where
