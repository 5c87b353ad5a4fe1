"""The student: what it unfolds it folds again, exactly, and what it trains is what the graph computes afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from isobit.calib.context import Calibration
from isobit.calib.training.student import FixedGrid, MinMaxWeights, NormMode, Student, rounded
from isobit.calib.training.tracking import TrackedRange
from isobit.pipeline.graph.nodes import bias_quantizer_of, bound_args, get_attribute, is_constant, quantizer_of
from isobit.pipeline.graph.norms import folded_norm
from isobit.pipeline.quant.grid import Grid, QuantSpec, params_from_range
from isobit.pipeline.quant.quantizer import Phase, Quantizer
from tests.examples.units import CPU, TARGET, Notes, net, recipe

NETS = ("tiny", "residual", "mobile")


def made(name: str = "residual", *sets: str) -> tuple[Calibration, Tensor]:
    quantized, images = net(recipe("qdrop_w4a4", "policy=none", *sets), name=name, target=TARGET)
    return Calibration(quantized.graph, quantized.units, images, quantized.recipe, CPU, Notes(), classes=5), images


class Through(nn.Module):
    """A coder that changes nothing, on steps too fine to be seen."""

    scale = torch.tensor(1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return x

    def settle(self, quantizer: Quantizer) -> None:
        quantizer.set_params(params_from_range(torch.tensor(0.0), torch.tensor(1.0), quantizer.spec))


def student(calibration: Calibration, mode: NormMode = "frozen") -> Student:
    return Student(calibration, lambda q, _: MinMaxWeights(q.spec), lambda q, _: TrackedRange(q.spec, "union"), mode)


@pytest.mark.parametrize("mode", ["frozen", "train"])
@pytest.mark.parametrize("name", NETS)
def test_without_quantizers_it_is_the_float_network(name: str, mode: NormMode) -> None:
    calibration, images = made(name)
    made_student = Student(calibration, lambda q, _: Through(), lambda q, _: Through(), mode).eval()
    with torch.no_grad():
        torch.testing.assert_close(made_student(images), calibration.graph(images), rtol=1e-3, atol=1e-4)


def train_a_little(of: Student, images: Tensor, steps: int = 3) -> None:
    of.train()
    optimiser = torch.optim.SGD(of.parameters(), lr=1e-2)
    for _ in range(steps):
        optimiser.zero_grad()
        of(images).square().mean().backward()
        optimiser.step()
    for site in of.sites.values():
        if isinstance(site, TrackedRange):
            site.close()
    of.eval()


@pytest.mark.parametrize("mode", ["frozen", "train"])
@pytest.mark.parametrize("name", NETS)
def test_what_was_trained_is_what_the_graph_computes(name: str, mode: NormMode) -> None:
    """Test 32: batch norm folds exactly, negative gammas included; what `train` does not see are int32 biases."""
    calibration, images = made(name)
    for node in calibration.graph.graph.nodes:
        norm = folded_norm(node)
        if norm is not None:  # every second channel negative, in the network as well as in what was folded
            flip = torch.ones_like(norm.factor)
            flip[::2] = -1.0
            norm.factor.mul_(flip)
            weight, bias = (get_attribute(calibration.graph, bound_args(node)[name].args[0])
                            for name in ("weight", "bias"))
            weight.data.mul_(flip.reshape(-1, *[1] * (weight.dim() - 1)))
            bias.data.copy_((bias - norm.beta) * flip + norm.beta)
    trained = student(calibration, mode)
    train_a_little(trained, images)
    with torch.no_grad():
        expected = trained(images)
        trained.settle()
        if mode == "train":
            for node in calibration.graph.graph.nodes:
                if folded_norm(node) is not None:
                    bias_quantizer_of(calibration.graph, bound_args(node)["bias"]).phase = Phase.OFF
        found = calibration.graph(images)
    scale = float(expected.abs().max())
    assert float((found - expected).abs().max()) < 0.05 * scale  # a code may flip where two sums differ in a last bit
    assert float((found - expected).abs().median()) < 2e-3 * scale
    for node in calibration.graph.graph.nodes:
        quantizer = quantizer_of(calibration.graph, node)
        if quantizer is not None:
            assert quantizer.phase is Phase.ON and quantizer.scale is not None
            if is_constant(node):
                weight = get_attribute(calibration.graph, node.args[0])
                nearest = Quantizer(quantizer.spec)
                nearest.set_params(quantizer.params)
                assert int((nearest.quantize(weight) - quantizer.codes).abs().max()) <= 1


def test_training_changes_everything_but_frozen_statistics() -> None:
    """Test 15: weights, gamma and beta move; running statistics, and the graph until `settle`, do not."""
    calibration, images = made()
    graph_before = {name: value.clone() for name, value in calibration.graph.named_parameters()}
    trained = student(calibration)
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    train_a_little(trained, images)
    after = trained.state_dict()
    for name, value in before.items():
        kind = name.rpartition(".")[2]
        if kind in ("mean", "variance"):
            assert torch.equal(value, after[name]), name
        elif kind in ("weight", "gamma", "beta"):
            assert not torch.equal(value, after[name]), name
    assert all(torch.equal(v, graph_before[n]) for n, v in calibration.graph.named_parameters())


def test_batch_norms_in_training_mode_follow_the_batch() -> None:
    calibration, images = made()
    trained = student(calibration, "train")
    before = {name: value.clone() for name, value in trained.state_dict().items() if name.endswith("variance")}
    train_a_little(trained, images * 3)
    assert all(not torch.equal(value, trained.state_dict()[name]) for name, value in before.items())


def test_min_max_weights_are_within_half_a_step_and_pass_every_gradient() -> None:
    weight = torch.randn(4, 3, 3, 3, requires_grad=True)
    coder = MinMaxWeights(QuantSpec(Grid(4, signed=False), symmetric=False, axis=0))
    value = coder(weight)
    params, codes = coder.codes(weight)
    error = (value - weight).detach().abs().flatten(1).amax(1)
    assert float((error / params.scale).max()) <= 1.0  # half a step, and where both ends round outwards one
    expected = (codes - params.zero_point.reshape(-1, 1, 1, 1)) * params.scale.reshape(-1, 1, 1, 1)
    torch.testing.assert_close(value, expected)
    value.sum().backward()
    assert torch.equal(weight.grad, torch.ones_like(weight))


def test_the_gradient_passes_where_values_were_clamped() -> None:
    """Test 3."""
    spec = QuantSpec(Grid(2, signed=False), symmetric=True)
    x = torch.tensor([-1.0, 0.4, 9.0], requires_grad=True)
    value = rounded(x, torch.tensor(1.0), torch.tensor(0), spec)
    assert value.tolist() == [0.0, 0.0, 3.0]
    value.sum().backward()
    assert x.grad.tolist() == [1.0, 1.0, 1.0]


def test_a_grid_that_the_target_prescribes_is_left_alone() -> None:
    spec = QuantSpec(Grid(8, signed=False), symmetric=True)
    quantizer = Quantizer(spec)
    quantizer.set_params(params_from_range(torch.tensor(0.0), torch.tensor(1.0), spec))
    quantizer.fixed = True
    site = FixedGrid(quantizer)
    scale = quantizer.scale.clone()
    site.settle(quantizer)
    assert torch.equal(quantizer.scale, scale)
    assert float(site(torch.tensor([0.5]))) == pytest.approx(0.5, abs=1 / 255)
    assert [float(end) for end in site.ends()] == pytest.approx([0.0, 1.0])


def test_a_weight_has_a_scale_when_it_was_quantized() -> None:
    coder = MinMaxWeights(QuantSpec(Grid(4, signed=True), symmetric=True))
    with pytest.raises(RuntimeError, match="never quantized"):
        _ = coder.scale
    weight = torch.tensor([[7.0, -3.0]])
    coder(weight)
    assert torch.equal(coder.scale, coder.params(weight).scale) and coder.channel_bits is None
