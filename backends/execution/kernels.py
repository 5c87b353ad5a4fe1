"""What a runtime's kernel is to an execution, and what it tells of itself to be judged over every input."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from isobit.backends.execution.codes import CodeGrid, Codes
from isobit.backends.execution.layer_sums import SumRange, Sums, centered_ends, one_range
from isobit.backends.regions import Region
from isobit.pipeline.graph.nodes import known_sizes, tensor_shape

if TYPE_CHECKING:
    from isobit.backends.execution.integer import Execution

# (execution, region, its inputs) -> float32 logits: the last layer, whose sums leave in float.
LogitKernel = Callable[["Execution", Region, list[Codes]], Tensor]
# (execution, region, its inputs, grid of its result) -> codes before the grid's ends and multiples are applied.
Kernel = Callable[["Execution", Region, list[Codes], CodeGrid], Tensor]


@dataclass(frozen=True)
class SumKernel:
    """A `Kernel` that adds integers and brings the sum to the grid of its result: codes depend on the sum alone.

    Args:
        add: the sums of inputs.
        bring: codes of sums, of inputs on these grids, before the result's ends and multiples are applied. It keeps
            order: products with positive numbers and roundings do, in float and in integers.
        reach: which sums there can be.
    """

    add: Callable[[Execution, Region, list[Codes]], Sums]
    bring: Callable[[Execution, Region, Sequence[CodeGrid], Sums, CodeGrid], Tensor]
    reach: Callable[[Execution, Region, Sequence[CodeGrid]], SumRange]

    def __call__(self, run: Execution, region: Region, inputs: list[Codes], grid: CodeGrid) -> Tensor:
        return self.bring(run, region, [value.grid for value in inputs], self.add(run, region, inputs), grid)


def mean_sums(run: Execution, region: Region, inputs: list[Codes]) -> Sums:
    """Sums over whole maps."""
    x = inputs[0]
    count = x.codes.shape[2] * x.codes.shape[3]
    return Sums(x.centered.double().sum((2, 3), keepdim=True), elements=count)


def mean_range(run: Execution, region: Region, grids: Sequence[CodeGrid]) -> SumRange:
    """The sums over a whole map."""
    count = math.prod(known_sizes(tensor_shape(region.inputs[0])[2:]))
    low, high = centered_ends(grids[0])
    return one_range(count * low, count * high, 4, count)


@dataclass(frozen=True)
class ElementKernel:
    """A `Kernel` whose every code depends on one code of each input alone.

    Args:
        codes: the kernel itself.
        together: false where it depends on one code of one of the inputs.
    """

    codes: Kernel
    together: bool = True

    def __call__(self, run: Execution, region: Region, inputs: list[Codes], grid: CodeGrid) -> Tensor:
        return self.codes(run, region, inputs, grid)
