"""The networks that `zoo.py` builds: published ones with random weights, and small ones of the kinds that have none.

Every network is a factory and the shapes of what it reads. Batch-norm statistics are those of one random batch, so that
activations neither die nor explode. Networks of timm are there where timm is installed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

SEED = 1005


@dataclass(frozen=True)
class Network:
    """One network of the zoo.

    Args:
        make: gives the module, with random weights.
        inputs: shape of one sample by the name of the argument; an empty name in networks with one input.
        side: of images, where the shapes hold 0.
        tokens: values of integer inputs are below this number; 0 where inputs are float32.
    """

    make: Callable[[], nn.Module]
    inputs: dict[str, tuple[int, ...]]
    side: int = 96
    tokens: int = 0

    def shapes(self, side: int | None = None) -> dict[str, tuple[int, ...]]:
        """Shape of one sample of every input, for images of `side`."""
        return {name: tuple(size or side or self.side for size in shape) for name, shape in self.inputs.items()}

    def samples(self, count: int, side: int | None = None) -> dict[str, np.ndarray]:
        """Random inputs by name, [count, ...]: normal, or tokens."""
        draw = np.random.default_rng(1)
        return {
            name: draw.integers(0, self.tokens, (count, *shape)) if self.tokens
            else draw.standard_normal((count, *shape), dtype=np.float32)
            for name, shape in self.shapes(side).items()
        }

    def lively(self, side: int | None = None) -> nn.Module:
        """The module in eval mode, its batch norms with the statistics of one batch, a head of zeros at random."""
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(SEED)
            model = self.make()
            for module in model.modules():
                if isinstance(module, _BatchNorm):
                    module.momentum = None  # the statistics become those of the one batch below
                elif isinstance(module, nn.Linear) and not module.weight.any():
                    module.reset_parameters()
            model.train()(*(torch.from_numpy(x) for x in self.samples(4, side).values()))
        return model.eval()

    def steadiness(self, side: int | None = None) -> float | None:
        """How much of a small disturbance is left: the float network's first output, its inputs disturbed by 40 dB.

        Returns:
            signal to noise ratio of that output in decibel; None where inputs are tokens. Below 40, the network makes
            every error of its first layers larger, as deep ones with random weights and batch norm do.
        """
        if self.tokens:
            return None
        model, draw = self.lively(side), np.random.default_rng(2)
        inputs = self.samples(8, side).values()
        noise = [0.01 * x.std() * draw.standard_normal(x.shape, dtype=np.float32) for x in inputs]
        with torch.no_grad():
            expected, got = (
                _first(model(*(torch.from_numpy(x) for x in given)))
                for given in (inputs, [x + n for x, n in zip(inputs, noise, strict=True)])
            )
        return float(10 * torch.log10(expected.square().sum() / (expected - got).square().sum()))


def _first(outputs: object) -> Tensor:
    while not isinstance(outputs, Tensor):
        outputs = next(iter(outputs.values() if isinstance(outputs, dict) else outputs))
    return outputs


IMAGE = {"": (3, 0, 0)}


def _vision(name: str, side: int = 96) -> Network:
    weights = {"weights": None, **({"weights_backbone": None} if "deeplab" in name or "lraspp" in name else {})}
    return Network(lambda: torchvision.models.get_model(name, **weights), IMAGE, side)


def _timm(name: str, side: int) -> Network:
    return Network(lambda: importlib.import_module("timm").create_model(name, pretrained=False), IMAGE, side)


class SsdLite(nn.Module):
    """Backbone and heads of torchvision's ssdlite320: class logits and box offsets of all anchors."""

    def __init__(self) -> None:
        super().__init__()
        model = torchvision.models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
        self.backbone, self.head = model.backbone, model.head

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """By name: `bbox_regression` and `cls_logits`."""
        return self.head(list(self.backbone(x).values()))


class Recurrent(nn.Module):
    """A keyword spotter on features [N, frames, 10]: one recurrent layer, its last step, twelve classes."""

    def __init__(self, kind: type[nn.GRU | nn.LSTM]) -> None:
        super().__init__()
        self.front, self.rnn, self.head = nn.Linear(10, 32), kind(32, 48, batch_first=True), nn.Linear(48, 12)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 12]."""
        return self.head(self.rnn(torch.relu(self.front(x)))[0][:, -1])


class Wave(nn.Module):
    """Conv1d on raw audio [N, 1, 4000]: ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(1, 16, 32, stride=8), nn.BatchNorm1d(16), nn.ReLU(), nn.MaxPool1d(4),
            nn.Conv1d(16, 32, 3, padding=1, groups=16), nn.BatchNorm1d(32), nn.ReLU(), nn.MaxPool1d(4),
            nn.Conv1d(32, 32, 3, padding=1), nn.BatchNorm1d(32), nn.ReLU(),
        )
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 10]."""
        return self.head(self.body(x).mean(-1))


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


class UNet(nn.Module):
    """Two steps down, two transposed convolutions up, with joins: a map of two classes."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.low = _block(3, 12), _block(12, 24), _block(24, 48)
        self.up_two, self.up_one = nn.ConvTranspose2d(48, 24, 2, stride=2), nn.ConvTranspose2d(24, 12, 2, stride=2)
        self.right_two, self.right_one, self.head = _block(48, 24), _block(24, 12), nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 2, H, W]."""
        one = self.one(x)
        two = self.two(nn.functional.max_pool2d(one, 2))
        low = self.low(nn.functional.max_pool2d(two, 2))
        up = self.right_two(torch.cat([self.up_two(low), two], 1))
        return self.head(self.right_one(torch.cat([self.up_one(up), one], 1)))


class TwoInputs(nn.Module):
    """An image and a vector of facts about it: five classes."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.facts, self.head = _block(3, 16), nn.Linear(6, 16), nn.Linear(32, 5)

    def forward(self, image: Tensor, facts: Tensor) -> Tensor:
        """Logits [N, 5]."""
        return self.head(torch.cat([self.body(image).mean((2, 3)), torch.relu(self.facts(facts))], 1))


class Named(nn.Module):
    """Two heads on one trunk: a dict of class logits and a map."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.classes, self.map = _block(3, 16), nn.Linear(16, 5), nn.Conv2d(16, 1, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """`classes` [N, 5] and `map` [N, 1, H, W]."""
        trunk = self.body(x)
        return {"classes": self.classes(trunk.mean((2, 3))), "map": torch.sigmoid(self.map(trunk))}


class Words(nn.Module):
    """Tokens [N, 24] through an embedding and one attention layer: four classes."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(200, 32), nn.Linear(32, 4)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [N, 4]."""
        return self.head(self.layer(self.table(tokens)).mean(1))


NETWORKS = {
    **{name: _vision(name) for name in (
        "resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "mnasnet1_0",
        "efficientnet_b0", "shufflenet_v2_x0_5", "squeezenet1_1", "densenet121", "convnext_tiny",
    )},
    "deeplabv3_mobilenet_v3_large": _vision("deeplabv3_mobilenet_v3_large"),
    "lraspp_mobilenet_v3_large": _vision("lraspp_mobilenet_v3_large"),
    "ssdlite320": Network(SsdLite, IMAGE, 320),
    "vit_b_16": _vision("vit_b_16", 224),
    "swin_t": _vision("swin_t", 224),
    "timm:mobilevit_s": _timm("mobilevit_s", 128),
    "timm:efficientformer_l1": _timm("efficientformer_l1", 224),
    "timm:ghostnet_100": _timm("ghostnet_100", 96),
    "timm:mobileone_s0": _timm("mobileone_s0", 96),
    "gru": Network(lambda: Recurrent(nn.GRU), {"": (49, 10)}),
    "lstm": Network(lambda: Recurrent(nn.LSTM), {"": (49, 10)}),
    "conv1d": Network(Wave, {"": (1, 4000)}),
    "unet": Network(UNet, IMAGE),
    "two_inputs": Network(TwoInputs, {"image": (3, 0, 0), "facts": (6,)}, 48),
    "dict_output": Network(Named, IMAGE, 48),
    "tokens": Network(Words, {"": (24,)}, tokens=200),
}
