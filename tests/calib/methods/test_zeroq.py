"""ZeroQ: nearest rounding, wider ranges where asked, and averages that get the range of what is averaged."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from calib.context import Calibration
from calib.methods.nearest import NearestParameters, nearest
from calib.methods.zeroq import ZeroqParameters, zeroq
from pipeline.graph import quantizer_of
from pipeline.watcher import Quiet
from tests import tiny
from tests.calib.nets import CPU, TARGET, calibration, recipe


def made(**parameters: object) -> Calibration:
    of = calibration(recipe("minmax_w8a8"), ranges=False)
    assert zeroq(of, ZeroqParameters(**parameters)) == ()
    return of


def reach(of: Calibration) -> dict[str, float]:
    """The greatest value of each activation."""
    return {name: float((q.spec.grid.qmax - q.zero_point) * q.scale) for name, q in of.activations().items()}


def test_as_the_paper_has_it_but_for_averages_it_is_nearest_rounding() -> None:
    plain, ours = calibration(recipe("minmax_w8a8"), ranges=False), made(averages="searched")
    nearest(plain, NearestParameters())
    for name, quantizer in plain.weights().items():
        assert torch.equal(quantizer.codes, ours.weights()[name].codes)
    assert reach(ours) == pytest.approx(reach(plain), rel=1e-6)


def test_an_average_gets_the_range_of_what_is_averaged() -> None:
    ours, searched = made(), made(averages="searched")
    pool = next(n for n in ours.graph.graph.nodes if n.name in ours.activations() and "mean" in n.args[0].name)
    averaged = quantizer_of(ours.graph, pool.args[0].args[0])
    changed, before = reach(ours), reach(searched)
    assert changed[pool.name] == pytest.approx(float((averaged.spec.grid.qmax - averaged.zero_point) * averaged.scale))
    assert changed[pool.name] > 1.5 * before[pool.name]
    assert {name: end for name, end in changed.items() if name != pool.name} == pytest.approx(
        {name: end for name, end in before.items() if name != pool.name}
    )


class Cut(tiny.Residual):
    """Cuts a row off before the average, as networks for odd sizes do."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        return self.head(x[:, :, 1:].mean(dim=(2, 3)))


def test_operators_that_only_move_codes_do_not_hide_what_is_averaged() -> None:
    torch.manual_seed(0)
    model, images = Cut().eval(), torch.randn(8, 3, 8, 8)
    quantized, _ = tiny.quantized_net(TARGET, recipe("minmax_w8a8"), model, images)
    of = Calibration(quantized.graph, quantized.units, images, quantized.recipe, CPU, Quiet())
    zeroq(of, ZeroqParameters())
    ends = list(reach(of).items())
    (average, own), (_, averaged) = ends[-1], ends[-2]
    assert "mean" in average and own == pytest.approx(averaged)


def test_ranges_are_widened_by_the_factor() -> None:
    plain, wide = reach(made()), reach(made(widen=1.5))
    assert wide == pytest.approx({name: 1.5 * end for name, end in plain.items()}, rel=0.03)
