"""Images out of batch norms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from isobit.calib.synthesis.distill import (
    Distillation,
    distil,
    distillation_loss,
    first_images,
    input_moments,
    unit_loss,
)
from isobit.calib.synthesis.statistics import Watched, watched_network
from isobit.pipeline.errors import CalibrationError
from tests.examples.tiny import quantized_net
from tests.examples.units import CPU, PAPER, recipe

SHORT = Distillation(iterations=60)


SHAPE = (2, 8, 8)
MEAN, DEVIATION = torch.tensor([-2.0, 3.0]), torch.tensor([9.0, 4.0])


def trained(unit: bool = True) -> nn.Module:
    """Two batch norms that have seen images: normalised ones, or ones of `MEAN` and `DEVIATION`."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.BatchNorm2d(8),
        nn.ReLU(), nn.Flatten(), nn.Linear(288, 4),
    )
    with torch.no_grad():
        for _ in range(60):
            images = torch.randn(64, *SHAPE)
            model(images if unit else images * DEVIATION[:, None, None] + MEAN[:, None, None])
    return model.eval()


def watch(model: nn.Module) -> Watched:
    quantized, _ = quantized_net(PAPER, recipe("qdrop_w4a4"), model, torch.zeros(2, *SHAPE))
    return watched_network(quantized.graph, CPU, outputs=False)


def weights(watched: Watched) -> list[Tensor]:
    return [value.clone() for value in watched._module.state_dict().values()]


def test_the_start_is_nearly_black_as_in_the_authors_code() -> None:
    start = first_images((3, 32, 32), 32, seed=0)
    assert float(start.std()) == pytest.approx(0.0136, abs=1e-4)
    assert float(start.mean()) == pytest.approx(-7e-5, abs=2e-4)
    assert torch.equal(start, first_images((3, 32, 32), 32, seed=0))
    assert not torch.equal(start, first_images((3, 32, 32), 32, seed=1))


def test_the_loss_falls_and_the_teacher_stays() -> None:
    watched, shape = watch(trained()), SHAPE
    before = weights(watched)
    images = distil(watched, shape, 4, 3, CPU, SHORT)
    start = distillation_loss(watched, first_images(shape, 4, 3), unit=True)
    assert images.shape == (4, *shape) and not images.requires_grad
    assert float(distillation_loss(watched, images, unit=True)) < 0.3 * float(start)
    assert all(torch.equal(a, b) for a, b in zip(before, weights(watched), strict=True))
    assert torch.equal(images, distil(watched, shape, 4, 3, CPU, SHORT))


def test_the_image_term_is_what_unit_switches() -> None:
    watched, shape = watch(trained()), SHAPE
    images = torch.randn(3, *shape) * 2 + 1
    with_term, without = (distillation_loss(watched, images, unit) for unit in (True, False))
    mean, deviation = images.mean((2, 3)), images.std((2, 3))
    term = mean.square().sum(1).mean() + (deviation - 1).square().sum(1).mean()
    assert float(unit_loss(images)) == pytest.approx(float(term), rel=1e-3)
    assert float(with_term - without) == pytest.approx(float(term), rel=1e-3)


def test_the_learning_rate_never_leaves_its_floor(monkeypatch: pytest.MonkeyPatch) -> None:
    watched, shape = watch(trained()), SHAPE
    rates: list[float] = []
    step = torch.optim.Adam.step
    monkeypatch.setattr("isobit.calib.synthesis.distill.PATIENCE", 0)
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: rates.append(self.param_groups[0]["lr"]) or step(self))
    distil(watched, shape, 2, 0, CPU, Distillation(iterations=200))
    assert rates[0] == 0.5 and rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(1e-4)


def test_moments_of_inputs_that_are_not_normalised_come_out_of_the_batch_norms() -> None:
    mean, deviation = input_moments(watch(trained(unit=False)), SHAPE, 0, CPU)
    assert mean.shape == deviation.shape == SHAPE
    torch.testing.assert_close(mean.mean((1, 2)), MEAN, rtol=0.3, atol=0.5)
    # Roughly, because neighbouring pixels of distilled images may go together: 9 and 4, not 1.
    assert bool(((deviation.square().mean((1, 2)).sqrt() / DEVIATION).log2().abs() < 1).all())


def test_a_value_that_is_larger_than_the_others_is_found_where_the_network_tells_places_apart() -> None:
    """As the first coefficient of an MFCC: a kernel as wide as the input answers it in one of its columns only."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 16, (3, 4)), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4))
    with torch.no_grad():
        for _ in range(60):
            images = torch.randn(64, 1, 8, 4)
            images[..., 0] = images[..., 0] * 9 - 20
            model(images)
    quantized, _ = quantized_net(PAPER, recipe("qdrop_w4a4"), model.eval(), torch.zeros(2, 1, 8, 4))
    mean, _ = input_moments(watched_network(quantized.graph, CPU, outputs=False), (1, 8, 4), 0, CPU)
    columns = mean.mean((0, 1))
    assert float(columns[0]) < -10 and float(columns[1:].abs().max()) < 5


def test_a_network_without_batch_norms_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4)).eval()
    with pytest.raises(CalibrationError, match="no batch norm"):
        distil(watch(model), SHAPE, 2, 0, CPU)
