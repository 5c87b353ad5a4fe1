"""Four ways in which a range follows what passes, on traces that the specification states (test 4)."""

from __future__ import annotations

import pytest
import torch

from isobit.calib.training.tracking import TrackedRange, Tracking
from isobit.pipeline.quant.grid import Grid, QuantSpec
from isobit.pipeline.quant.quantizer import Quantizer

SPEC = QuantSpec(Grid(4, signed=False), symmetric=True)


def trace(tracking: Tracking, steps: int, value: float = 1.0) -> list[float]:
    site = TrackedRange(SPEC, tracking)
    found = []
    for _ in range(steps):
        site.observe(torch.tensor([0.0, value]))
        found.append(float(site.ends()[1]))
    return found


def test_ema_gdfq_has_the_authors_transient() -> None:
    found = trace("ema_gdfq", 200)
    assert found[:3] == pytest.approx([1.0, 5.2632, 17.848], rel=1e-3)
    assert max(found) == pytest.approx(3945.1, rel=1e-3) and found.index(max(found)) == 20
    assert found[99] == pytest.approx(3.6, rel=0.02) and found[149] == pytest.approx(1.0136, rel=1e-3)
    assert found[199] == pytest.approx(1.0001, rel=1e-4)


def test_ema_raw_starts_at_zero_and_ema_corrected_does_not() -> None:
    assert trace("ema_raw", 5) == pytest.approx([1 - 0.9 ** (step + 1) for step in range(5)])
    assert trace("ema_corrected", 5) == pytest.approx([1.0] * 5)


def test_union_only_grows_and_holds_zero() -> None:
    site = TrackedRange(QuantSpec(Grid(4, signed=False), symmetric=False), "union")
    ends = []
    for low, high in ((2.0, 3.0), (-1.0, 1.0), (-0.5, 7.0), (0.0, 0.0)):
        site.observe(torch.tensor([low, high]))
        ends.append(tuple(float(end) for end in site.ends()))
    assert ends == [(0.0, 3.0), (-1.0, 3.0), (-1.0, 7.0), (-1.0, 7.0)]


def test_a_closed_range_stays_whatever_passes() -> None:
    """Test 6."""
    site = TrackedRange(SPEC, "union")
    site(torch.tensor([0.0, 1.5]))
    site.close()
    value = site(torch.tensor([0.0, 100.0]))
    assert float(value.max()) == pytest.approx(1.5)
    quantizer = Quantizer(SPEC)
    site.settle(quantizer)
    assert float(quantizer.scale) == pytest.approx(0.1)


def test_a_range_comes_back_from_a_checkpoint() -> None:
    site, other = TrackedRange(SPEC, "ema_corrected"), TrackedRange(SPEC, "ema_corrected")
    site.observe(torch.tensor([0.0, 2.0]))
    other.load_state_dict(site.state_dict())
    site.observe(torch.tensor([0.0, 4.0]))
    other.observe(torch.tensor([0.0, 4.0]))
    assert site.ends() == other.ends()


def test_a_wider_range_is_the_same_times_the_factor() -> None:
    plain, wide = (TrackedRange(SPEC, "ema_corrected", widen) for widen in (1.0, 1.5))
    for high in (2.0, 5.0):
        x = torch.tensor([-1.0, high])
        plain.observe(x), wide.observe(x)
        assert [float(end) for end in wide.ends()] == pytest.approx([1.5 * float(end) for end in plain.ends()])


def test_a_range_taken_from_another_is_the_others_at_any_time() -> None:
    """On a grid of its own: the average before a classifier keeps 8 bits."""
    source, site = TrackedRange(SPEC, "union"), TrackedRange(QuantSpec(Grid(8, signed=False), symmetric=True), "union")
    site.take_from(source)
    for high in (1.5, 6.0):
        source(torch.tensor([0.0, high]))
        assert float(site(torch.tensor([0.0, 100.0])).max()) == pytest.approx(high)
    quantizer = Quantizer(site.spec)
    site.settle(quantizer)
    assert float(quantizer.scale) == pytest.approx(6.0 / 255)
