"""A network that moves elements at its start, in its middle and at its end, built and compared code by code."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from isobit import passes
from isobit.backends.base import BACKENDS, Backend
from isobit.backends.regions import find_regions
from isobit.pipeline.capture.capture import capture
from isobit.pipeline.graph.nodes import op_name
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.recipe.schema import Recipe
from isobit.pipeline.stages import Reference
from tests.examples.tiny import calibrate_by_range

CHANNELS, SIZE = 4, 6
Move = Callable[[Tensor], Tensor]


class Moved(nn.Module):
    """[N, 4, 6, 6] with `move` on the input, between two convolutions, and at the output."""

    def __init__(self, move: Move) -> None:
        super().__init__()
        self.move = move
        moved = as_map(move(torch.zeros(1, CHANNELS, SIZE, SIZE))).shape[1]
        self.first = nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.start, self.middle = nn.Conv2d(moved, CHANNELS, 1), nn.Conv2d(moved, CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        start = torch.relu(self.start(as_map(self.move(x)))).mean((2, 3), keepdim=True)
        x = self.first(x)
        middle = torch.relu(self.middle(as_map(self.move(x)))).mean((2, 3), keepdim=True)
        return self.move(torch.relu(x + start) + middle)


def as_map(x: Tensor) -> Tensor:
    """A value of any rank as [N, C, H, W]: axes in the middle merged, or added."""
    if x.dim() == 4:
        return x
    if x.dim() > 4:
        return x.flatten(2, x.dim() - 2)
    return x.reshape(x.shape[0], *x.shape[1:], *[1] * (4 - x.dim()))


def moved_reference(
    move: Move, backend: Backend, recipe: Recipe | str = "minmax_w8a8"
) -> tuple[Reference, Tensor, Tensor]:
    """The frozen reference on the default profile, images, and what the network makes of them in float."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, images = Moved(move).eval(), torch.randn(12, CHANNELS, SIZE, SIZE)
    recipe = load_recipe(recipe) if isinstance(recipe, str) else recipe
    quantized = passes.quantize(capture(model, images[:1]), recipe, backend.target(backend.profiles[0]))
    assert not list(backend.unsupported(quantized.graph, quantized.target))
    with torch.no_grad():
        return passes.legalize(calibrate_by_range(quantized, images))[0], images, model(images)


def differing_codes(reference: Reference, images: Tensor, backend: Backend, folder: Path) -> int:
    """Codes and outputs in which the built artifact differs from the target's own arithmetic, at every level."""
    backend.emit(reference, folder)
    expected, differ = backend.arithmetic(reference).run(images), 0
    for level in backend.gated_levels:
        got = backend.open(folder, level).run(images)
        assert set(got) >= set(expected)
        differ += sum(int(np.sum(np.asarray(got[name]) != value)) for name, value in expected.items())
    return differ


def in_float(reference: Reference) -> list[str]:
    """Operators that the target computes in float."""
    regions = find_regions(reference.graph, reference.quantized.target)
    return [op_name(region.anchor) for region in regions if not region.integer]


def noise(backend: Backend, reference: Reference, images: Tensor, expected: Tensor) -> float:
    """Signal to noise of the quantized network's output, dB."""
    error = torch.from_numpy(backend.arithmetic(reference).run(images)["logits"]) - expected
    return 10 * math.log10(float(expected.square().mean() / error.square().mean()))


def backend_of(name: str) -> Backend:
    """A backend by the name of its target."""
    return BACKENDS.get(name)
