"""Small networks with several inputs or outputs, of any rank: detectors, siamese networks, audio, tokens."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isobit import backends, passes
from isobit.backends.base import BACKENDS
from isobit.calib.calibrate import calibrate
from isobit.pipeline.capture.capture import capture
from isobit.pipeline.proof.parity import ParityReport, compare
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.registry import discover
from isobit.pipeline.samples.network_inputs import Inputs, part, run_graph, sample_count, tensors
from isobit.pipeline.stages import Quantized, Reference

discover(backends)

F = nn.functional
Found = namedtuple("Found", "boxes scores")
SAMPLES = 8


class Trunk(nn.Module):
    """Two convolutions [N, 3, 8, 8] -> [N, 8, 4, 4], shared by the networks on images."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x))))


class Detector(Trunk):
    """SSD's heads at two scales: boxes [N, 20, 4] and scores [N, 20, 3], in a named tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.third = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.heads = nn.ModuleList([nn.Conv2d(8, width, 1) for width in (4, 4, 3, 3)])

    def forward(self, x: Tensor) -> Found:
        large = super().forward(x)
        maps = (large, F.relu(self.third(large)))
        rows = [head(maps[place % 2]).permute(0, 2, 3, 1).flatten(1, 2) for place, head in enumerate(self.heads)]
        return Found(torch.cat(rows[:2], 1), torch.cat(rows[2:], 1))


class Segmenter(Trunk):
    """Maps of classes at two depths in a dict, as torchvision's DeepLabV3 returns them."""

    def __init__(self) -> None:
        super().__init__()
        self.out, self.aux = nn.Conv2d(8, 5, 1), nn.Conv2d(8, 5, 3, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = super().forward(x)
        return {"out": F.interpolate(self.out(features), scale_factor=2.0), "aux": self.aux(features)}


class Siamese(Trunk):
    """Two images through the same weights; whether they are alike, [N, 2]."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        features = [super(Siamese, self).forward(image).mean((2, 3)) for image in (left, right)]
        return self.head(torch.cat(features, 1))


class Steered(Trunk):
    """An image and a vector of six numbers; classes [N, 4] and the features [N, 14]."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(14, 4)

    def forward(self, image: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        features = torch.cat([super().forward(image).mean((2, 3)), state], 1)
        return self.head(features), features


class Tokens(nn.Module):
    """Words [N, 7] as integers through an embedding; classes [N, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.inner, self.head = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(F.relu(self.inner(self.words(words).mean(1))))


class Ranks(Trunk):
    """Outputs of rank 4, 3, 2 and 1, the last one a class as an integer."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> list[Tensor]:
        features = super().forward(x)
        rows = self.head(features.mean((2, 3)))
        return [features, features.flatten(2), rows, rows.argmax(1)]


class Odd(Trunk):
    """An output twice, one that is also read by what follows, and the input itself."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> dict[str, Any]:
        features = super().forward(x)
        rows = self.head(features.mean((2, 3)))
        return {"rows": rows, "again": rows, "middle": features, "image": x}


class Heads(Trunk):
    """Layers of features as outputs, in every form: as they are, laid out, in two parts; beside a map and others."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(8, width) for width in (4, 12, 5, 3)])
        self.out = nn.Conv2d(8, 6, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = super().forward(x)
        rows, boxes, parts, scores = (head(features.mean((2, 3))) for head in self.heads)
        planes = self.out(features)
        return {
            "rows": rows, "boxes": boxes.view(-1, 3, 4).permute(0, 2, 1), "left": parts[:, :2], "planes": planes,
            "right": parts[:, 2:], "scores": scores.softmax(1), "best": planes.argmax(1),
            "anchors": torch.cat([planes[:, :2].flatten(1), features.flatten(1)], 1),
        }


class Audio(nn.Module):
    """One channel of sound [N, 1, 32] through convolutions along time; classes [N, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(1, 8, 5, stride=2, padding=2), nn.Conv1d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.second(F.relu(self.first(x)))).mean(2))


IMAGE = (3, 8, 8)
NETWORKS: Mapping[str, tuple[type[nn.Module], tuple[tuple[int, ...], ...]]] = {
    "detector": (Detector, (IMAGE,)),
    "segmenter": (Segmenter, (IMAGE,)),
    "siamese": (Siamese, (IMAGE, IMAGE)),
    "steered": (Steered, (IMAGE, (6,))),
    "tokens": (Tokens, ((7,),)),
    "ranks": (Ranks, (IMAGE,)),
    "odd": (Odd, (IMAGE,)),
    "audio": (Audio, ((1, 32),)),
    "heads": (Heads, (IMAGE,)),
}


def network(name: str, samples: int = SAMPLES) -> tuple[nn.Module, Inputs]:
    """A network with random weights, always the same, and samples of every input."""
    kind, shapes = NETWORKS[name]
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind().eval()
    if name == "tokens":
        return model, torch.randint(0, 20, (samples, *shapes[0]), generator=generator)
    values = tuple(torch.randn(samples, *shape, generator=generator) for shape in shapes)
    return model, values[0] if len(values) == 1 else values


def placed(
    name: str, target: str, recipe: str = "minmax_w8a8", edits: tuple[str, ...] = ()
) -> tuple[Quantized, Inputs]:
    """Captured and placed for a target."""
    model, x = network(name)
    return place(model, x, name, target, recipe, edits), x


def place(
    model: nn.Module, x: Inputs, name: str, target: str, recipe: str = "minmax_w8a8", edits: tuple[str, ...] = ()
) -> Quantized:
    """A module captured and placed for a target."""
    backend = BACKENDS.get(target)
    captured = capture(model, part(x, slice(1)), name=name)
    return passes.quantize(captured, load_recipe(recipe, edits), backend.target(backend.profiles[0]))


def frozen(
    name: str, target: str, recipe: str = "minmax_w8a8", edits: tuple[str, ...] = ()
) -> tuple[Reference, Inputs]:
    """Calibrated and frozen."""
    quantized, x = placed(name, target, recipe, edits)
    return passes.legalize(calibrate(quantized, x))[0], x


@dataclass(frozen=True)
class Proven:
    """An artifact in a folder, what it was made of, and how it compares."""

    reference: Reference
    x: Inputs
    report: ParityReport


def proven(name: str, target: str, folder: Path, recipe: str = "minmax_w8a8", edits: tuple[str, ...] = ()) -> Proven:
    """From the module to files that were run."""
    return prove(*frozen(name, target, recipe, edits), target, folder)


def prove(reference: Reference, x: Inputs, target: str, folder: Path) -> Proven:
    """From a frozen graph to files that were run."""
    backend = BACKENDS.get(target)
    backend.emit(reference, folder)
    captured = reference.quantized.captured
    report = compare(
        [(part(x, slice(5)), None), (part(x, slice(5, sample_count(x))), None)],
        {"float": lambda x: captured.graph(*tensors(x)), "calibrated": lambda x: reference.evaluate(x)},
        backend.arithmetic(reference), {level: backend.open(folder, level) for level in backend.levels},
        gated=backend.gated_levels,
    )
    return Proven(reference, x, report)


def float_outputs(name: str, x: Inputs) -> tuple[Tensor, ...]:
    """What the model itself gives, flat."""
    model, _ = network(name)
    with torch.no_grad():
        return run_graph(capture(model, part(x, slice(1))).graph, x)
