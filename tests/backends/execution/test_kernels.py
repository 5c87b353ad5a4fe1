"""A kernel in two halves is the kernel, and the sums that it makes lie in the range that it tells."""

from itertools import product

import pytest
import torch

from isobit.backends.execution.codes import Codes
from isobit.backends.execution.kernels import ElementKernel, SumKernel
from tests.backends.execution.test_reachable import Observed, arithmetic_of


@pytest.mark.parametrize(("target", "name"), [
    *product(("onnx", "fixed"), ("add", "depthwise", "avg_pool_padded", "tokens")), ("fixed", "reductions"),
])
def test_sums_of_samples_lie_in_the_range_and_are_what_is_brought(target, name):
    judged, images = arithmetic_of(target, name, 4, 4)
    observed, checked = Observed(judged.execution), 0
    observed.run(images[:4])
    for region, read, codes in observed.seen:
        kernel = None if region.kind == "input" else observed.kernel_of(region)
        if not isinstance(kernel, SumKernel):
            continue
        inputs, grid = [read[node] for node in region.inputs], observed.grid_of(region)
        grids, sums = [value.grid for value in inputs], kernel.add(observed, region, inputs)
        reach, totals = kernel.reach(observed, region, grids), sums.exact()
        assert bool((totals >= reach.least).all() and (totals <= reach.largest).all())
        assert reach.axis % totals.dim() == sums.axis % totals.dim() and reach.elements == sums.elements
        again = grid.settle(kernel.bring(observed, region, grids, reach.sums(totals, sums.beside), grid))
        assert torch.equal(again.float(), codes.float())
        checked += 1
    assert checked >= 3


def test_a_kernel_of_elements_is_the_function_itself():
    run, region, grid = object(), object(), object()
    kernel = ElementKernel(lambda *given: given, together=False)
    inputs = [Codes(torch.zeros(1), None)]
    assert kernel(run, region, inputs, grid) == (run, region, inputs, grid)
