"""Networks that mix the samples of a batch, or draw random numbers, are refused with their line; rounding is not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from isobit.pipeline.capture.capture import capture
from isobit.pipeline.capture.samplewise import check_samplewise
from isobit.pipeline.errors import CaptureError
from tests.examples import nets


class Call(nn.Module):
    """A function of a convolution and the input as a model; `norm` has no running statistics."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function, self.conv = function, nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(3, track_running_stats=False)

    def forward(self, x):
        return self.function(self, x)


def features(net, x):
    return net.conv(x).mean((2, 3))


MIXING = {
    "centred": lambda net, x: features(net, x - x.mean(0)),
    "centred_after_relu": lambda net, x: (lambda y: y - y.mean(0, keepdim=True))(F.relu(features(net, x))),
    "flipped": lambda net, x: features(net, x.flip(0)),
    "rolled": lambda net, x: features(net, x).roll(1, 0),
    "norm_over_all": lambda net, x: features(net, x / x.norm()),
    "softmax_over_batch": lambda net, x: torch.softmax(features(net, x), 0),
    "cumulative": lambda net, x: features(net, x.cumsum(0)),
    "batch_size": lambda net, x: features(net, x * x.shape[0]),
    "sorted": lambda net, x: features(net, x.sort(0)[0]),
    "minus_the_first": lambda net, x: features(net, x - x[:1]),
    "median": lambda net, x: features(net, x) - features(net, x).median(0)[0],
    "one_answer_for_all": lambda net, x: features(net, x).mean(0, keepdim=True).expand(x.shape[0], -1),
    "batch_norm_without_statistics": lambda net, x: features(net, net.norm(x)),
    "functional_batch_norm": lambda net, x: F.batch_norm(net.conv(x), None, None, training=True).amax((2, 3)),
    "place_in_the_batch": lambda net, x: features(net, x) + torch.arange(x.shape[0])[:, None],
    "third_and_later": lambda net, x: torch.where((torch.arange(x.shape[0]) < 2)[:, None], 1.0, 2.0) * features(net, x),
}


@pytest.mark.parametrize("name", MIXING)
def test_a_network_that_mixes_samples_is_refused_with_its_line(name):
    with pytest.raises(CaptureError) as error:
        capture(Call(MIXING[name]), torch.zeros(1, 3, 4, 4))
    assert "depends on the other samples of its batch" in error.value.what
    assert "test_samplewise.py:" in error.value.where


def test_the_line_is_that_of_the_operator_that_mixes():
    with pytest.raises(CaptureError) as error:
        capture(Call(MIXING["centred"]), torch.zeros(1, 3, 4, 4))
    assert error.value.where.startswith("node mean ")


RANDOM = {
    "dropout": lambda net, x: features(net, F.dropout(x, 0.5, training=True)),
    "noise": lambda net, x: features(net, x + 0.1 * torch.randn_like(x)),
    "bernoulli": lambda net, x: features(net, x * torch.bernoulli(torch.full_like(x, 0.5))),
}


@pytest.mark.parametrize("name", RANDOM)
def test_a_network_that_draws_random_numbers_is_refused_with_its_line(name):
    with pytest.raises(CaptureError) as error:
        capture(Call(RANDOM[name]), torch.zeros(1, 3, 4, 4))
    assert "draws random numbers" in error.value.what and "test_samplewise.py:" in error.value.where


def test_looking_takes_nothing_from_the_global_generator():
    graph, state = torch.fx.symbolic_trace(nn.Dropout(0.5)), torch.random.get_rng_state()
    with pytest.raises(CaptureError, match="random numbers"):
        check_samplewise(graph, torch.ones(1, 3))
    assert torch.equal(torch.random.get_rng_state(), state)


FINE = {
    "dead": lambda net, x: F.relu(features(net, x * 0) - 100),
    "not_finite": lambda net, x: torch.log(features(net, x) * 0 - 1),
    "huge": lambda net, x: features(net, x * 1e30),
    "cancelled": lambda net, x: features(net, x) * 1e12 + 1e14 - 1e14,
    "constant_instance": lambda net, x: F.instance_norm(net.conv(x * 0 + 1)).mean((2, 3)) + features(net, x),
    "rounded": lambda net, x: torch.round(net.conv(x) * 100).mean((2, 3)),
    "attention_without_dropout": lambda net, x: F.scaled_dot_product_attention(x, x, x).mean((2, 3)),
    "folded_into_the_batch": lambda net, x: F.avg_pool2d(x.view(-1, 1, 4, 4), 2).view(-1, 3, 2, 2),
    "dropout_in_evaluation": lambda net, x: features(net, F.dropout(x, 0.5, training=False)),
    "wide_sum": lambda net, x: (x * 1e6).flatten(1).sum(1, keepdim=True) + features(net, x),
}


@pytest.mark.parametrize("name", FINE)
@pytest.mark.parametrize("scale", [1.0, 1e-7, 1e4])
def test_rounding_dead_networks_and_huge_values_are_no_reason(name, scale):
    capture(Call(FINE[name]), scale * torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(1)))


def test_float32_rounding_that_looks_like_mixing_is_settled_in_float64():
    """Sums of terms that cancel: in float32 the batch's kernel and the single sample's give other roundings."""
    captured, x = nets.captured_net("residual")

    class Rounded(torch.fx.GraphModule):
        def forward(self, x):
            noise = 1e-2 if x.dtype == torch.float32 and len(x) > 1 else 0.0
            return captured.graph(x.float()).to(x.dtype) + noise

    check_samplewise(Rounded(captured.graph, captured.graph.graph), x[:1])


def test_a_network_whose_only_output_holds_no_number_is_refused_with_its_line():
    with pytest.raises(CaptureError, match="holds no numbers") as error:
        capture(Call(lambda net, x: net.conv(x)[:, :, :0]), torch.zeros(1, 3, 4, 4))
    assert "test_samplewise.py:" in error.value.where and error.value.allowed


def test_a_network_that_fails_on_values_is_refused():
    """Shapes alone do not tell that an index lies beyond its table."""
    class Beyond(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("places", torch.tensor([1, 7]))

        def forward(self, x):
            return x.index_select(1, self.places) * 2

    with pytest.raises(CaptureError, match=r"cannot answer a sample: \w+Error: ") as error:
        capture(Beyond(), torch.zeros(1, 5))
    assert error.value.where == "float32 [4, 5]"
