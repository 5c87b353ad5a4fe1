"""Tiny networks of the operators that integer targets compute with kernels of their own, a family of operators each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from isobit import passes
from isobit.calib.calibrate import calibrate
from isobit.pipeline.samples.network_inputs import Inputs
from tests.examples import ports

F = nn.functional
SAMPLES = 8
AXES = {"h": (2,), "w": (3,), "c": (1,), "hw": (2, 3), "cw": (1, 3), "chw": (1, 2, 3)}


class _Map(nn.Module):
    """Values of either sign, [N, 6, 5, 7]."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)


class Reductions(_Map):
    """Sums, means, largest and smallest values along every set of axes, some of which are kept."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.first(x)
        found = {f"{kind}_{name}": getattr(x, kind)(axes, keepdim=len(axes) == 1 and kind in ("mean", "amin"))
                 for name, axes in AXES.items() for kind in ("sum", "mean", "amax", "amin")}
        rows = x.flatten(2).transpose(1, 2)
        return {**found, "rows": rows.mean(-1), "columns": rows.sum(1), "gated": x * torch.sigmoid(x.mean(1, True))}


class Places(_Map):
    """Where the largest and smallest values stand."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 300)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.first(x)
        scores = self.head(F.relu(x).mean((2, 3)))
        return {
            "map": x.argmax(1), "kept": x.argmax(2, keepdim=True), "row": x.argmin(3), "flat": x.flatten(1).argmax(-1),
            "classes": scores.argmax(1), "scores": scores, "zeros": F.relu(x - 9).argmax(1),
        }


class Pairs(_Map):
    """Two tensors, or one and a pixel of another."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.first(x)
        y, pixel = self.second(F.relu(x)), x.mean((2, 3), keepdim=True)
        return {
            "larger": torch.maximum(x, y), "smaller": torch.minimum(y, x), "less": x - y, "pixel": y - pixel,
            "above": torch.maximum(pixel, y), "clipped": F.relu(pixel - y),
        }


class Resizes(_Map):
    """Pools whose windows differ, and bilinear interpolation."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.first(x)
        return {
            "uneven": F.adaptive_avg_pool2d(x, (3, 4)), "larger": F.adaptive_avg_pool2d(x, (9, 7)),
            "ceil": F.avg_pool2d(x, 3, 2, ceil_mode=True), "padded": F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
            "inside": F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
            "divided": F.avg_pool2d(x, 2, divisor_override=3), "twice": F.interpolate(x, scale_factor=2.0,
                                                                                     mode="bilinear"),
            "corners": F.interpolate(x, size=(11, 4), mode="bilinear", align_corners=True),
            "reflected": F.pad(x, (2, 1, 1, 2), "reflect"),
        }


class Rows(nn.Module):
    """Linear layers over the last of three axes, a sum of their inputs and outputs, and what follows them."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer, self.head = nn.Linear(6, 18), nn.Linear(18, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[N, 5, 6] to [N, 5, 4], [N, 4] and [N, 2, 3, 5]."""
        y = x + self.outer(F.gelu(self.inner(x)))
        return self.head(y), self.head(y.mean(1)), y.transpose(1, 2).reshape(-1, 2, 3, 5)


class Words(nn.Module):
    """Tokens [N, 7] through a table, beside six numbers and a row of another table."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.kinds = nn.Embedding(20, 6), nn.Embedding(5, 6)
        self.inner, self.head = nn.Linear(6, 8), nn.Linear(14, 3)

    def forward(self, words: Tensor, facts: Tensor, kind: Tensor) -> Tensor:
        """Logits [N, 3] of tokens, numbers [N, 6], and one token [N]."""
        read = F.relu(self.inner(self.words(words))).amax(1)
        return self.head(torch.cat([read, facts + self.kinds(kind)], 1))


MAP = ((3, 5, 7),)
NETWORKS: Mapping[str, tuple[type[nn.Module], tuple[tuple[int, ...], ...]]] = {
    "reductions": (Reductions, MAP), "places": (Places, MAP), "pairs": (Pairs, MAP), "resizes": (Resizes, MAP),
    "rows": (Rows, ((5, 6),)), "words": (Words, ((7,), (6,), ())),
}


def network(name: str) -> tuple[nn.Module, Inputs]:
    """A network with random weights, always the same, and samples of every input."""
    kind, shapes = NETWORKS[name]
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind().eval()
    if name == "words":
        words, kinds = (torch.randint(0, most, (SAMPLES, *shape), generator=generator)
                        for most, shape in ((20, shapes[0]), (5, shapes[2])))
        return model, (words, torch.randn(SAMPLES, *shapes[1], generator=generator), kinds)
    return model, torch.randn(SAMPLES, *shapes[0], generator=generator)


def proven(name: str, target: str, folder: Path) -> ports.Proven:
    """From the module to files that were run."""
    model, x = network(name)
    reference = passes.legalize(calibrate(ports.place(model, x, name, target), x))[0]
    return ports.prove(reference, x, target, folder)
