"""Networks whose last operators only lay results out, as heads of detectors do: boxes in pixels beside scores."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isobit import passes
from isobit.pipeline.capture.capture import capture
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.stages import Captured, Reference
from isobit.pipeline.target import Target
from tests.examples.tiny import calibrate_by_range


class Head(nn.Module):
    """Features [N, 8, 6, 6] of an image; `box` gives hundreds, `score` logits; `end` maps (self, features, image)."""

    def __init__(self, end) -> None:
        super().__init__()
        self.body, self.box, self.score = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 6, 1)
        self.mix, self.one, self.two = nn.Conv2d(12, 4, 1), nn.Linear(8, 4), nn.Linear(8, 3)
        with torch.no_grad():
            self.box.weight.mul_(100)
            self.box.bias.fill_(160.0)
            self.one.weight.mul_(100)
        self.end = end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self, F.relu(self.body(x)), x)


def _levels(net: Head, f: Tensor, x: Tensor) -> Tensor:
    maps = [net.box(f), net.box(F.max_pool2d(f, 2))]
    return torch.cat([m.permute(0, 2, 3, 1).reshape(-1, m.shape[2] * m.shape[3], 4) for m in maps], 1)


def _halves(net: Head, f: Tensor, x: Tensor) -> Tensor:
    box = net.box(f)
    return torch.cat([box[:, 2:], box[:, :2]], 1)


def _pair(net: Head, f: Tensor) -> Tensor:
    return torch.cat([net.box(f), torch.sigmoid(net.score(f))], 1)


ENDS = {
    "detector": lambda n, f, x: torch.cat([n.box(f).flatten(2), torch.sigmoid(n.score(f)).flatten(2)], 1),
    "nested": lambda n, f, x: torch.cat([_pair(n, f), f], 1),
    "view_permute_slice": lambda n, f, x: _pair(n, f).view(-1, 2, 5, 36).permute(0, 2, 3, 1)[:, 1:4],
    "interleaved": lambda n, f, x: _pair(n, f).view(-1, 5, 2, 36).transpose(1, 2).reshape(-1, 10, 36),
    "padded": lambda n, f, x: F.pad(_pair(n, f), (1, 0, 0, 2)),
    "rows": lambda n, f, x: torch.cat([n.box(f)[:, :, :3], n.score(f)[:, :4]], 2),
    "levels": _levels,
    "image": lambda n, f, x: torch.cat([x, n.box(f)], 1),
    "inner_too": lambda n, f, x: torch.cat([f, n.mix(torch.cat([f, n.box(f)], 1))], 1),
    "linear_heads": lambda n, f, x: (lambda g: torch.cat([n.one(g), n.two(g)], 1))(f.mean((2, 3))),
    "linear_permuted": lambda n, f, x: n.one(f.mean((2, 3))).view(-1, 2, 2).permute(0, 2, 1)[:, :, 1:],
    "halves_of_one": _halves,
    "stacked": lambda n, f, x: torch.stack([n.box(f).flatten(2), n.score(f)[:, 2:].flatten(2)], 2)[:, :, :, 7],
    "beside": lambda n, f, x: torch.hstack([n.box(f).mean((2, 3)), n.score(f).mean((2, 3))]),
    "twice": lambda n, f, x: (lambda b: torch.cat([b, b], 1))(n.box(f)),
}
# Float operators among the branches, which only some targets have.
FLOAT_ENDS = {
    "softmax": lambda n, f, x: torch.cat([n.box(f), n.score(f).softmax(1)], 1),
    "decoded": lambda n, f, x: torch.cat([torch.cat([n.box(f)[:, :2] - n.box(f)[:, 2:], n.box(f)[:, 2:]], 1) * 8.0,
                                          torch.sigmoid(n.score(f))], 1),
}


@functools.cache
def captured_end(name: str) -> tuple[Captured, Tensor, Tensor]:
    """The captured network, images [12, 3, 6, 6], and what it makes of them in float."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, images = Head({**ENDS, **FLOAT_ENDS}[name]).eval(), torch.randn(12, 3, 6, 6)
    with torch.no_grad():
        return capture(model, images[:1]), images, model(images)


def frozen_end(name: str, target: Target) -> tuple[Reference, Tensor, Tensor]:
    """The same, placed at 8 bits and frozen with min-max ranges."""
    captured, images, expected = captured_end(name)
    quantized = passes.quantize(captured, load_recipe("minmax_w8a8"), target)
    return passes.legalize(calibrate_by_range(quantized, images))[0], images, expected
