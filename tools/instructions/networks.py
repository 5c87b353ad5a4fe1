"""The two yardsticks of MLPerf Tiny that fit a Cortex-M4 best, with random weights: layers and sizes decide alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from isobit.pipeline.model.modelfile import LoadedModel
from isobit.pipeline.samples.data import Batches, array_batches

SEED = 1018
IMAGES = 32
_DS_CNN, _RESNET8 = "ds_cnn_mlperf_tiny", "resnet8_mlperf_tiny"


def _block(
    channels: int, filters: int, kernel: int | tuple[int, int], groups: int = 1, **geometry: object
) -> nn.Module:
    conv = nn.Conv2d(channels, filters, kernel, groups=groups, bias=False, **geometry)  # pyright: ignore
    return nn.Sequential(conv, nn.BatchNorm2d(filters), nn.ReLU())


def ds_cnn() -> nn.Module:
    """Keyword spotting: 49 x 10 coefficients, 64 channels, four depthwise-separable blocks, 12 words."""
    blocks = [_block(1, 64, (10, 4), stride=(2, 2), padding=(5, 1))]
    for _ in range(4):
        blocks += [_block(64, 64, 3, 64, padding=1), _block(64, 64, 1)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 12))


class _Residual(nn.Module):
    """Two convolutions beside what they start from, which a 1 x 1 convolution brings to another size."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        stride = filters // channels
        self.first = _block(channels, filters, 3, stride=stride, padding=1)
        self.second = nn.Sequential(nn.Conv2d(filters, filters, 3, padding=1, bias=False), nn.BatchNorm2d(filters))
        self.beside = nn.Conv2d(channels, filters, 1, stride=stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(self.first(x)) + self.beside(x))


def resnet8() -> nn.Module:
    """Image classification: 32 x 32 x 3 pixels, three residual blocks of 16, 32 and 64 channels, 10 classes."""
    blocks = [_Residual(16, 16), _Residual(16, 32), _Residual(32, 64)]
    return nn.Sequential(_block(3, 16, 3, padding=1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


@dataclass(frozen=True)
class Yardstick:
    """A network of the benchmark.

    Args:
        title: for people.
        make: the network without weights that fit.
        shape: of a sample.
        record: what X-CUBE-AI took on a Cortex-M4 at 120 MHz, in millions of cycles.
    """

    title: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    record: float


YARDSTICKS: Mapping[str, Yardstick] = {
    _DS_CNN: Yardstick("DS-CNN", ds_cnn, (1, 49, 10), 5.2),
    _RESNET8: Yardstick("ResNet-8", resnet8, (3, 32, 32), 19.9),
}


def model_of(name: str) -> LoadedModel:
    """The network with weights of a fixed seed, whose batch-norm statistics fit them."""
    yardstick = YARDSTICKS[name]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(SEED)
        model = yardstick.make()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # the statistics become those of the one batch below
        model.train()(torch.randn(IMAGES, *yardstick.shape))
    return LoadedModel(model.eval(), None, name, "", None)


def samples_of(name: str) -> Batches:
    """Random samples to calibrate with."""
    x = np.random.default_rng(SEED).standard_normal((IMAGES, *YARDSTICKS[name].shape)).astype(np.float32)
    return array_batches(torch.from_numpy(x), None, IMAGES, "calib", "random samples")
