"""What every kind of grid can do, one after the other; and a kind that is written here goes all the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

from isobit.backends.describe import tensor_table
from isobit.backends.execution.exact import ExactArithmetic
from isobit.backends.onnx.target import TARGETS
from isobit.backends.placement import placement_table
from isobit.backends.reference import TARGET, ReferenceBackend
from isobit.passes.freeze import freeze
from isobit.pipeline.errors import CalibrationError, RecipeError, TargetError
from isobit.pipeline.graph.quantized_tensors import quantizers
from isobit.pipeline.quant.grid import Grid, QParams, QuantSpec
from isobit.pipeline.quant.grids import GRIDS, grid_kind, kinds_of
from isobit.pipeline.quant.quantizer import Phase, Quantizer
from isobit.pipeline.recipe.file import load_recipe
from tests.examples.tiny import frozen_reference, quantized_net

# name, grid, bits of five channels
KINDS = {
    "uniform": (Grid(4, signed=False), None),
    "uniform, signed": (Grid(3, signed=True), None),
    "uniform, narrow": (Grid(8, signed=True, narrow=True, limit=64), None),
    "multibit": (grid_kind("multibit").make(2, signed=True), torch.arange(5)),
    "nested": (grid_kind("nested").make(3, signed=False), torch.arange(5)),
}
EVERY = pytest.mark.parametrize("name", KINDS)


def on(name: str, scale: float = 0.05) -> Quantizer:
    """A quantizer per tensor with this kind of grid, switched on."""
    grid, bits = KINDS[name]
    quantizer = Quantizer(QuantSpec(grid, symmetric=True))
    quantizer.set_params(QParams(torch.tensor(scale), torch.tensor(0, dtype=torch.int32)))
    if bits is not None:
        quantizer.set_channel_bits(bits)
    quantizer.phase = Phase.ON
    return quantizer


def ramp(quantizer: Quantizer) -> torch.Tensor:
    """[1, 5, n]: rising values, beyond both ends of the grid."""
    grid, scale = quantizer.spec.grid, float(quantizer.scale)
    return (torch.arange(16 * grid.qmin - 40, 16 * grid.qmax + 40) / 16 * scale).expand(1, 5, -1)


@EVERY
def test_codes_lie_on_the_grid_and_rise_with_the_values(name):
    quantizer = on(name)
    codes = quantizer.quantize(ramp(quantizer))
    assert quantizer.spec.grid.qmin <= float(codes.min()) and float(codes.max()) <= quantizer.spec.grid.qmax
    assert torch.equal(codes, codes.round()) and bool((codes.diff(dim=-1) >= 0).all())


@EVERY
def test_values_of_codes_have_those_codes(name):
    quantizer = on(name)
    codes = quantizer.quantize(ramp(quantizer))
    assert torch.equal(quantizer.quantize(quantizer.dequantize(codes)), codes)


@EVERY
def test_quantized_values_stay_as_they_are(name):
    quantizer = on(name)
    once = quantizer(ramp(quantizer))
    assert torch.equal(quantizer(once), once) and len(once[0, 4].unique()) > 2


@EVERY
def test_training_sees_the_same_codes_and_a_gradient_inside_the_ends(name):
    quantizer = on(name)
    grid, x = quantizer.spec.grid, ramp(quantizer).clone().requires_grad_()
    codes = grid.trainable_codes(x, quantizer.scale, quantizer.zero_point, quantizer.multiples)
    assert torch.equal(codes, quantizer.quantize(x.detach()))
    (codes * quantizer.scale).sum().backward()
    inside = ((x / quantizer.scale).round() >= grid.qmin) & ((x / quantizer.scale).round() <= grid.qmax)
    assert torch.allclose(x.grad, inside.float())


@EVERY
def test_what_a_kind_says_of_itself_fits_its_grids(name):
    grid, bits = KINDS[name]
    kind = type(grid)
    assert grid_kind(grid.kind) is kind and kind.tensors
    assert kind.container_bits(grid.nominal_bits) == grid.bits and grid.nominal_bits <= kind.most_bits
    assert kind.own_bits == (bits is not None) and grid.suffix.strip() in ("", kind.kind)
    assert kind.negatives or grid.qmin == 0
    assert bool(kind.cost(2, 3.0, 1000, 100)) == kind.own_bits


@EVERY
def test_rules_that_a_kind_cannot_have(name):
    kind = type(KINDS[name][0])
    kind.check_rule(kind.most_bits, True, True)
    with pytest.raises(ValueError, match=f"{kind.kind} has at most {kind.most_bits} bits, not 9"):
        kind.check_rule(9, True, True)
    if kind.own_bits:
        with pytest.raises(ValueError, match="give a number, not a budget"):
            kind.check_rule(None, True, True)
    else:
        kind.check_rule(None, True, True)


def test_kinds_by_what_may_have_them():
    assert kinds_of("weights") == ["uniform", "multibit"] and kinds_of("activations") == ["uniform", "nested"]
    with pytest.raises(RecipeError, match="no kind of grid 'nestd'") as found:
        grid_kind("nestd")
    assert "nested" in str(found.value)


# --- a fourth kind ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Powers(Grid):
    """0 and powers of two."""

    kind: ClassVar[str] = "powers"

    @property
    def suffix(self) -> str:
        return " powers"

    def describe(self, symmetric: bool) -> str:
        return self.kind

    def settle(self, codes: torch.Tensor, multiples: torch.Tensor | None) -> torch.Tensor:
        magnitude = torch.exp2(torch.log2(codes.abs().clamp(min=1)).round()).clamp(max=2.0 ** (self.bits - 2))
        return torch.where(codes == 0, codes, magnitude.copysign(codes))


@pytest.fixture
def powers(monkeypatch):
    monkeypatch.setitem(GRIDS._entries, Powers.kind, Powers)
    return load_recipe("minmax_w8a8", [
        "name=powers", "weights={bits: 5, symmetric: true, granularity: per_channel, range: minmax, levels: powers}",
        "activations={bits: 5, symmetric: true, granularity: per_tensor, range: minmax, levels: powers}", "policy=none",
    ])  # fmt: skip


# torch 2.11's torch.export.load warns of its own read-only buffer.
@pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")
def test_a_new_kind_of_grid_goes_from_recipe_to_artifact(powers, tmp_path):
    assert "levels: powers" in powers.to_yaml() and load_recipe(_saved(powers, tmp_path)) == powers
    reference, images = frozen_reference(TARGET, powers)
    expected = ExactArithmetic(reference).run(images)
    allowed = {0, 1, 2, 4, 8}
    for name, quantizer in quantizers(reference.graph).items():
        assert isinstance(quantizer.spec.grid, Powers)
        codes = expected[name].astype(int) + quantizer.spec.grid.qmin if quantizer.codes is None else quantizer.codes
        found = {abs(int(code)) for code in np.unique(codes)}
        assert found <= allowed and len(found) > 3
    rows = placement_table(reference.graph, TARGET)
    assert {row.weight for row in rows} >= {"5 powers"} and {row.grid for row in rows} >= {"powers"}
    assert {entry.levels for entry in tensor_table(reference.graph, TARGET)} == {"powers"}
    backend = ReferenceBackend()
    backend.emit(reference, tmp_path)
    got = backend.open(tmp_path, "float64").run(images)
    assert all(np.array_equal(expected[name], got[name]) for name in expected)


def _saved(recipe, folder):
    path = folder / "powers.yaml"
    path.write_text(recipe.to_yaml())
    return path


def test_a_target_without_its_kernels_refuses_it(powers):
    with pytest.raises(TargetError, match="no kernels for weights.levels: powers") as found:
        quantized_net(TARGETS["generic"], powers)
    assert "uniform, multibit" in str(found.value) and "`recipe.weights.levels=uniform`" in str(found.value)


def test_codes_that_a_kind_does_not_have_are_not_frozen(powers):
    reference, _ = frozen_reference(TARGET, powers)
    graph = reference.graph
    next(q for q in quantizers(graph).values() if q.codes is not None).codes[0] = 3
    with pytest.raises(CalibrationError, match="powers levels do not have"):
        freeze(graph)
