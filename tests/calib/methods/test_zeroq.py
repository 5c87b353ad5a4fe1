"""ZeroQ: nearest rounding, wider ranges where asked, and averages that get the range of what is averaged."""

from __future__ import annotations

import pytest
import torch

from isobit.calib.context import Calibration
from isobit.calib.methods.nearest import NearestParameters, nearest
from isobit.calib.methods.zeroq import ZeroqParameters, zeroq
from isobit.pipeline.graph.nodes import quantizer_of
from tests.examples.units import calibration, recipe


def made(**parameters: object) -> Calibration:
    of = calibration(recipe("minmax_w8a8"), ranges=False)
    assert zeroq(of, ZeroqParameters(**parameters)) == ()
    return of


def reach(of: Calibration) -> dict[str, float]:
    """The greatest value of each activation."""
    return {name: float((q.spec.grid.qmax - q.zero_point) * q.scale) for name, q in of.activations().items()}


def test_as_the_paper_has_it_but_for_averages_it_is_nearest_rounding() -> None:
    plain, ours = calibration(recipe("minmax_w8a8"), ranges=False), made(averages="own")
    nearest(plain, NearestParameters())
    for name, quantizer in plain.weights().items():
        assert torch.equal(quantizer.codes, ours.weights()[name].codes)
    assert reach(ours) == pytest.approx(reach(plain), rel=1e-6)


def test_an_average_gets_the_range_of_what_is_averaged() -> None:
    ours, searched = made(), made(averages="own")
    pool = next(n for n in ours.graph.graph.nodes if n.name in ours.activations() and "mean" in n.args[0].name)
    averaged = quantizer_of(ours.graph, pool.args[0].args[0])
    changed, before = reach(ours), reach(searched)
    assert changed[pool.name] == pytest.approx(float((averaged.spec.grid.qmax - averaged.zero_point) * averaged.scale))
    assert changed[pool.name] > 1.5 * before[pool.name]
    assert {name: end for name, end in changed.items() if name != pool.name} == pytest.approx(
        {name: end for name, end in before.items() if name != pool.name}
    )


def test_ranges_are_widened_by_the_factor() -> None:
    plain, wide = reach(made()), reach(made(widen=1.5))
    assert wide == pytest.approx({name: 1.5 * end for name, end in plain.items()}, rel=0.03)
