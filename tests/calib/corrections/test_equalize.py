"""Equalized channels: the same float network, wider codes for what was narrow, and nothing where it would cost."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isobit.backends.onnx.target import TARGETS
from isobit.calib.context import Calibration
from isobit.calib.corrections.equalize import LEAST_FACTOR, equalize, find_pairs
from isobit.calib.ranges.ranges import round_weights, search_ranges
from isobit.pipeline.quant.quantizer import Phase, stand_in_for
from tests.examples.tiny import quantized_net
from tests.examples.units import CPU, Notes, recipe


class Depthwise(nn.Module):
    """A layer whose channels differ in range by orders of magnitude, a depthwise one, a dense one."""

    def __init__(self, activation: nn.Module, channels: int = 8) -> None:
        super().__init__()
        self.a, self.f = nn.Conv2d(3, channels, 1), activation
        self.b = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.c = nn.Conv2d(channels, 4, 1)
        with torch.no_grad():
            spread = 2.0 ** -torch.arange(channels)
            self.a.weight.mul_(spread[:, None, None, None])
            self.a.bias.mul_(spread)
            self.b.weight.div_(spread[:, None, None, None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(torch.relu(self.b(self.f(self.a(x)))))


def clipped() -> Depthwise:
    """With a ReLU6 that cuts the widest channel."""
    model = network(nn.ReLU6())
    with torch.no_grad():
        model.a.weight.mul_(8.0)
        model.a.bias.mul_(8.0)
    return model


def between(calibration: Calibration, images: torch.Tensor) -> torch.Tensor:
    """What lies between the pair of layers."""
    (pair,) = find_pairs(calibration.graph, clips=True)
    seen: list[torch.Tensor] = []
    pair.quantizer.phase = Phase.OBSERVE
    with stand_in_for([(pair.quantizer, lambda x: seen.append(x) or x)]):
        calibration.graph(images)
    pair.quantizer.phase = Phase.OFF
    return seen[0]


def made(model: nn.Module, *sets: str) -> Calibration:
    images = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    quantized, _ = quantized_net(TARGETS["generic"], recipe("minmax_w8a8", *sets), model.eval(), images)
    return Calibration(quantized.graph, quantized.units, images, quantized.recipe, CPU, Notes())


def network(activation: nn.Module) -> Depthwise:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Depthwise(activation)


def first_weight(calibration: Calibration) -> torch.Tensor:
    return next(value for name, value in calibration.graph.named_parameters() if name.endswith("a.weight")).clone()


@torch.no_grad()
def error(calibration: Calibration, reference: torch.Tensor) -> float:
    search_ranges(calibration)
    round_weights(calibration)
    return float((calibration.graph(calibration.images) - reference).square().mean())


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.1), nn.Identity()])
@torch.no_grad()
def test_the_float_network_stays_and_the_quantized_one_comes_nearer(activation: nn.Module) -> None:
    plain, better = made(network(activation)), made(network(activation))
    reference = plain.graph(plain.images)
    assert equalize(better) == 1
    assert torch.allclose(better.graph(better.images), reference, atol=1e-5)
    assert error(better, reference) < 0.1 * error(plain, reference)


@torch.no_grad()
def test_channels_get_the_range_of_the_widest_within_limits() -> None:
    calibration = made(network(nn.ReLU()))
    (pair,) = find_pairs(calibration.graph)
    before = first_weight(calibration)
    equalize(calibration)
    factors = (before / first_weight(calibration)).flatten(1)[:, 0]
    assert float(factors.min()) == LEAST_FACTOR and float(factors.max()) == 1.0
    seen: list[torch.Tensor] = []
    pair.quantizer.attach(lambda x: seen.append(x) or x)
    pair.quantizer.phase = Phase.OBSERVE
    calibration.graph(calibration.images)
    ranges = seen[0].amax((0, 2, 3))
    ranges = ranges[ranges > 0] / ranges.max()
    assert float(ranges.median()) > 0.999  # equal, but for what the limit leaves narrower
    assert bool((ranges > 0.2).all())


def test_pairs_that_would_change_the_network_or_cost_codes_are_left() -> None:
    assert list(find_pairs(made(network(nn.ReLU6())).graph)) == []
    assert list(find_pairs(made(network(nn.ReLU()), "weights.granularity=per_tensor").graph)) == []

    class Dense(Depthwise):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(torch.relu(self.a(x)))

    assert list(find_pairs(made(Dense(nn.ReLU())).graph)) == []

    class Twice(Depthwise):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.relu(self.a(x))
            return self.c(self.b(y) + y)

    assert list(find_pairs(made(Twice(nn.ReLU())).graph)) == []


@torch.no_grad()
def test_a_channel_that_is_always_zero_stays() -> None:
    model = network(nn.ReLU())
    model.a.weight[3], model.a.bias[3] = 0.0, -1.0
    calibration = made(model)
    equalize(calibration)
    state = dict(calibration.graph.named_parameters())
    bias = next(value for name, value in state.items() if name.endswith("a.bias"))
    assert float(bias[3]) == -1.0 and all(bool(torch.isfinite(value).all()) for value in state.values())


@torch.no_grad()
def test_through_a_relu6_the_network_stays_the_same_on_the_calibration_images() -> None:
    plain, better = made(clipped()), made(clipped())
    reference = plain.graph(plain.images)
    ranges = between(plain, plain.images).amax((0, 2, 3))
    assert float(ranges[0]) == 6.0 and float(ranges[2:].max()) < 6.0  # the widest is cut, others are not
    assert equalize(better) == 0
    assert equalize(better, clips=True) == 1
    assert torch.allclose(better.graph(better.images), reference, atol=1e-5)
    assert error(better, reference) < 0.2 * error(plain, reference)
    assert list(find_pairs(made(network(nn.Hardtanh(-1.0, 6.0))).graph, clips=True)) == []
    assert len(list(find_pairs(made(network(nn.Hardtanh(-2.0, 2.0))).graph, clips=True))) == 1


@torch.no_grad()
def test_beyond_the_calibration_images_a_relu6_cuts_a_widened_channel_at_its_new_end() -> None:
    plain, better = made(clipped()), made(clipped())
    equalize(better, clips=True)
    factors = (first_weight(plain) / first_weight(better)).flatten(1)[:, 0]
    first, second = between(plain, 4 * plain.images), between(better, 4 * plain.images)
    scale = factors[:, None, None]
    torch.testing.assert_close(second * scale, torch.minimum(first, 6.0 * scale), rtol=1e-4, atol=1e-5)
    assert float(factors[0]) == 1.0 and bool((second * scale < 0.9 * first).any())
