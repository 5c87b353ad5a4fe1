"""The demo's network: a small CNN with everything that makes quantization interesting.

It has a depthwise convolution in each block (few weights per channel, wide spread between channels), linear block
outputs (signed), residual adds and a global average pool, on the 8 by 8 pixels of scikit-learn's digits.
"""

from __future__ import annotations

from torch import Tensor, nn


def _conv(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise 3x3, project 1x1 (linear); adds its input where the shapes allow it.

    After Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (2018).
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, expansion: int = 2) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.layers = nn.Sequential(
            *_conv(inputs, hidden, 1),
            nn.ReLU(),
            *_conv(hidden, hidden, 3, stride=stride, groups=hidden),
            nn.ReLU(),
            *_conv(hidden, outputs, 1),
        )
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H / stride, W / stride]."""
        return x + self.layers(x) if self.is_residual else self.layers(x)


class DigitsNet(nn.Module):
    """Grey images [N, 1, H, W] in [0, 1] -> logits [N, classes]."""

    def __init__(self, width: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_conv(1, width, 3), nn.ReLU())
        self.blocks = nn.Sequential(
            InvertedResidual(width, width),
            InvertedResidual(width, 2 * width, stride=2),
            InvertedResidual(2 * width, 2 * width),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 1, H, W] -> [N, classes]."""
        return self.classifier(self.pool(self.blocks(self.stem(x))).flatten(1))
