"""Tables of codes, and grids narrowed by activations and by nested levels."""

import numpy as np
import pytest
import torch

from isobit.backends.execution.codes import (
    CodeGrid,
    Codes,
    all_pairs,
    container,
    dequantized,
    looked_up,
    on_grid,
    output_grid,
    quantize_float,
    stored,
)
from isobit.backends.execution.integer import Execution
from isobit.backends.onnx.arithmetic import KERNELS, logits
from isobit.backends.onnx.target import TARGETS
from isobit.pipeline.graph.nodes import op_name, quantizer_of
from tests.examples.onnx_cases import frozen

GRID = CodeGrid(torch.tensor(0.1), 37, 0, 255)


def test_a_table_of_pairs_is_the_function():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(0, 256, shape, generator=generator).float() for shape in ((2, 3, 5, 5), (2, 3, 1, 1)))
    other = CodeGrid(torch.tensor(0.3), 11, 0, 255)

    def function(left, right):
        return left.centered * 1000 + right.centered * right.grid.scale

    table = all_pairs(function, GRID, other)
    assert torch.equal(looked_up(table, a, b), function(Codes(a, GRID), Codes(b, other)))
    assert torch.equal(looked_up(table, b, a), function(Codes(b, GRID), Codes(a, other)))


def test_stored_codes_are_bytes():
    codes = torch.arange(256)
    for dtype in (torch.float32, torch.float64, torch.int64):
        assert torch.equal(stored(codes.to(dtype)), codes.to(torch.uint8))


@pytest.mark.parametrize(
    ("name", "bounds"), [("relu", (0.0, np.inf)), ("relu6", (0.0, 0.3)), ("hardtanh", (-0.11, 0.17))]
)
def test_activations_after_an_operator_are_ends_of_its_grid(name, bounds):
    reference, images = frozen(name)
    execution = Execution(reference.graph, TARGETS["generic"], KERNELS, logits)
    absorbed = "relu" if name == "relu" else "hardtanh"
    region = next(r for r in execution.regions if r.absorbed and op_name(r.tail) == absorbed)
    grid = output_grid(reference.graph, region)
    expected = quantize_float(torch.tensor(bounds), container(quantizer_of(reference.graph, region.quantizer)))
    assert [grid.low, grid.high] == expected.tolist()
    codes = execution.run(images)[region.quantizer.name]
    assert (int(codes.min()), int(codes.max())) == (grid.low, grid.high)


def test_clamping_codes_is_clamping_values():
    grid = CodeGrid(torch.tensor(0.0371), 91, 0, 255)
    values = torch.linspace(-6, 9, 20001)
    expected = quantize_float(values.clamp(-0.7, 2.2), grid)
    assert torch.equal(quantize_float(values, grid).clamp(grid.code_of(-0.7), grid.code_of(2.2)), expected)


def test_nested_codes_settle_on_the_multiples_of_their_channels():
    grid = CodeGrid(torch.tensor(0.1), 0, 0, 90, torch.tensor([105, 35, 15, 7, 211]).reshape(-1, 1, 1))
    codes = torch.arange(256.0).expand(1, 5, -1)
    settled = grid.settle(codes[..., None].clone())[0, :, :, 0]
    assert [row.unique().tolist() for row in settled[:3]] == [[0, 105], [0, 35, 70, 105], [15.0 * i for i in range(7)]]
    assert settled[3].max() == 91 and not settled[4].any()  # clamped to 90 first, then to the nearest multiple
    assert torch.equal(CodeGrid(torch.tensor(0.1), 0, 3, 90).settle(codes.clone()), codes.clamp(3, 90))


def test_a_kernel_is_given_codes_only():
    codes = Codes(torch.zeros(1), CodeGrid(torch.tensor(1.0), 0, 0, 255))
    assert on_grid(codes) is codes
    with pytest.raises(TypeError, match="values in float"):
        on_grid(codes.codes)


def test_a_code_that_was_rounded_to_minus_zero_is_worth_zero():
    """As a runtime's integers have it: an output's bits would differ."""
    value = dequantized(Codes(torch.tensor([-0.0]), CodeGrid(torch.tensor(0.1), 0, 0, 255)))
    assert not torch.signbit(value).any()
