"""Rows, columns and weights of maps of another size, against torch on maps of random numbers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from isobit.backends.execution.codes import CodeGrid
from isobit.backends.fixed_point.operators.resampling import divisors_of, resample_rescales, taps_of
from isobit.passes import prepare
from isobit.pipeline.capture.capture import capture


class Resized(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


CASES = {
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (3, 4)),
    "adaptive up": lambda x: F.adaptive_avg_pool2d(x, (9, 7)),
    "twice": lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
    "by a stated factor": lambda x: F.interpolate(x, scale_factor=1.5, mode="bilinear"),
    "to a size": lambda x: F.interpolate(x, size=(11, 3), mode="bilinear"),
    "corners": lambda x: F.interpolate(x, size=(11, 4), mode="bilinear", align_corners=True),
    "one row": lambda x: F.interpolate(x, size=(1, 4), mode="bilinear", align_corners=True),
}


def taps(name):
    graph = prepare(capture(Resized(CASES[name]).eval(), torch.zeros(1, 2, 5, 7)).graph)
    node = next(node for node in reversed(graph.graph.nodes) if node.op == "call_function")
    return node, *taps_of(node)


@pytest.mark.parametrize("name", CASES)
def test_weights_are_torchs_within_half_a_step(name):
    _, rows, columns = taps(name)
    x = torch.randn(1, 2, 5, 7, generator=torch.Generator().manual_seed(0))
    wanted = CASES[name](x)[0].numpy()
    divisors = divisors_of(rows, columns)
    for y, z in np.ndindex(*divisors.shape):
        part = x[0, :, rows.first[y]:rows.first[y] + rows.weights.shape[1],
                 columns.first[z]:columns.first[z] + columns.weights.shape[1]].numpy()
        found = np.einsum("cij,i,j->c", part, rows.weights[y], columns.weights[z]) / divisors[y, z]
        # Half a step of 1 / 128 on each axis, of differences of up to 6.
        assert np.abs(found - wanted[:, y, z]).max() < (1e-5 if "adaptive" in name else 6 / 128)


@pytest.mark.parametrize("name", CASES)
def test_every_tap_lies_inside_of_the_map(name):
    _, rows, columns = taps(name)
    for found, size in ((rows, 5), (columns, 7)):
        assert found.first.min() >= 0 and found.first.max() + found.weights.shape[1] <= size
        assert found.weights.min() >= 0 and found.weights.sum(1).min() > 0


def test_there_is_a_rescale_for_every_divisor():
    node, rows, columns = taps("adaptive")
    divisors = divisors_of(rows, columns)
    grid = CodeGrid(torch.tensor(0.5), 3, 0, 255)
    assert set(resample_rescales(node, divisors, grid, grid)) == set(divisors.ravel().tolist()) and divisors.max() > 1
