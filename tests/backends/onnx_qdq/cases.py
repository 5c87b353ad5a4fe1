"""One small network per operator that the target runs in integers, frozen at chosen bits with random numbers.

Ranges are narrower than the data, so that codes clamp at both ends; `ties` makes every scale a power of two, so that
values fall exactly between two codes.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

import passes
from backends.onnx_qdq.target import TARGETS
from pipeline.capture import capture
from pipeline.graph import quantizers
from pipeline.grid import QParams
from pipeline.recipe import Recipe, load_recipe
from pipeline.stages import Captured, Reference
from pipeline.target import Target
from tests.tiny import calibrate_by_range, fill_levels, multibit_recipe

F = nn.functional


class Net(nn.Module):
    """conv -> `middle` -> conv -> global average -> classifier; `middle` maps [N, 8, 9, 9] to [N, C, h, w]."""

    def __init__(self, middle, channels: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
        self.last = nn.Conv2d(channels, 6, 1)
        self.head = nn.Linear(6, 5)
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(self, self.first(x))
        x = F.relu(self.last(x))
        return self.head(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def _attention(net: Net, x: Tensor) -> Tensor:
    x = F.relu(x)
    return x * F.hardsigmoid(net.second(F.adaptive_avg_pool2d(x, 1)))


def _residual(net: Net, x: Tensor) -> Tensor:
    x = F.relu(x)
    return F.relu(net.second(x) + x)


def _branches(net: Net, x: Tensor) -> Tensor:
    x = F.relu(x)
    return torch.cat([F.relu(net.second(x)), x], 1)


def _shuffle(net: Net, x: Tensor) -> Tensor:
    left, right = F.relu(x).chunk(2, 1)
    x = torch.cat([right, left], 1)
    return x.view(-1, 2, 4, 9, 9).transpose(1, 2).reshape(-1, 8, 9, 9)


# Name -> (middle, its channels).
MIDDLES = {
    "relu": (lambda net, x: F.relu(x), 8),
    "linear_output": (lambda net, x: net.second(F.relu(x)), 8),
    "relu6": (lambda net, x: F.hardtanh(net.second(F.relu(x)), 0.0, 0.3), 8),
    "hardtanh": (lambda net, x: F.hardtanh(net.second(F.relu(x)), -0.11, 0.17), 8),
    "depthwise": (lambda net, x: F.relu(net.depthwise(F.relu(x))), 8),
    "add": (_residual, 8),
    "add_itself": (lambda net, x: x + x, 8),
    "mul": (lambda net, x: net.second(x) * x, 8),
    "squeeze_excite": (_attention, 8),
    "hardswish": (lambda net, x: F.hardswish(x), 8),
    "silu": (lambda net, x: F.silu(x), 8),
    "sigmoid": (lambda net, x: torch.sigmoid(x), 8),
    "avg_pool": (lambda net, x: F.avg_pool2d(x, 3, 2), 8),
    "avg_pool_padded": (lambda net, x: F.avg_pool2d(x, 3, 2, padding=1), 8),
    "avg_pool_inside": (lambda net, x: F.avg_pool2d(x, 3, 2, padding=1, count_include_pad=False), 8),
    "max_pool": (lambda net, x: F.max_pool2d(F.relu(x), 3, 2, padding=1), 8),
    "cat": (_branches, 16),
    "cat_signed": (lambda net, x: torch.cat([net.second(x), x], 1), 16),
    "pad_slice": (lambda net, x: F.pad(x[:, :, ::2, 1:], (0, 0, 1, 2, 2, 3)), 13),
    "pad_reflect": (lambda net, x: F.pad(x, (2, 1, 0, 3), mode="reflect"), 8),
    "pad_replicate": (lambda net, x: F.pad(F.relu(x), (2, 1, 0, 3), mode="replicate"), 8),
    "pad_circular": (lambda net, x: F.pad(x, (1, 0, 2, 3), mode="circular"), 8),
    "shuffle": (_shuffle, 8),
    "max_pool_uneven": (lambda net, x: F.max_pool2d(F.pad(x, (0, 1, 1, 0), value=-torch.inf), 3, 2), 8),
    "affine": (lambda net, x: F.relu(8 * x - 0.1) * 0.5 + 0.25, 8),
}

# What the target computes in float.
FLOAT_MIDDLES = {
    "preactivation": (lambda net, x: net.second(F.relu(x)) + x, 8),
    "scaled": (lambda net, x: F.relu(torch.add(x, x, alpha=2)), 8),
    "gelu": (lambda net, x: F.gelu(net.second(F.relu(x))), 8),
    "softmax": (lambda net, x: net.second(F.relu(x)).softmax(1), 8),
    "layer_norm_gelu": (lambda net, x: F.gelu(F.layer_norm(net.second(F.relu(x)), [9])), 8),
    "gelu_read_twice": (lambda net, x: F.gelu(x) + net.second(F.gelu(x).softmax(1)), 8),
}


@cache
def _captured(name: str) -> tuple[Captured, Tensor]:
    middle, channels = {**MIDDLES, **FLOAT_MIDDLES}[name]
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = Net(middle, channels).eval()
        images = torch.randn(24, 3, 9, 9)
    return capture(model, images[:1]), images


def recipe_of(weight_bits: int, activation_bits: int, *edits: str) -> Recipe:
    """Every layer at the same bits."""
    return load_recipe("minmax_w8a8", [f"weights.bits={weight_bits}", f"activations.bits={activation_bits}", *edits])


def frozen(
    name: str, weight_bits: int = 8, activation_bits: int = 8, *edits: str, ties: bool = False,
    target: Target = TARGETS["vnni"],
) -> tuple[Reference, Tensor]:
    """The frozen network `name` and images [24, 3, 9, 9] that clamp and, with `ties`, hit halves."""
    captured, images = _captured(name)
    quantized = passes.quantize(captured, recipe_of(weight_bits, activation_bits, *edits), target)
    calibrated = calibrate_by_range(quantized, 0.6 * images)
    for quantizer in quantizers(calibrated.graph).values():
        if ties and not quantizer.fixed:
            scale = torch.exp2(torch.round(torch.log2(quantizer.scale)))
            quantizer.set_params(QParams(scale, quantizer.zero_point))
    reference, _ = passes.legalize(calibrated)
    return reference, torch.round(images * 128) / 128 if ties else images


def frozen_with_levels(name: str, profile: str) -> tuple[Reference, Tensor]:
    """The same with codebooks of mixed bits and nested activations."""
    captured, images = _captured(name)
    quantized = passes.quantize(captured, multibit_recipe(), TARGETS[profile])
    return passes.legalize(fill_levels(quantized, 0.6 * images))[0], images
