"""One small network per operator that the target runs in integers, frozen at chosen bits with random numbers.

Ranges are narrower than the data, so that codes clamp at both ends; `ties` makes every scale a power of two, so that
values fall exactly between two codes.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from isobit import passes
from isobit.backends.onnx.target import TARGETS
from isobit.pipeline.capture.capture import capture
from isobit.pipeline.graph.quantized_tensors import quantizers
from isobit.pipeline.quant.grid import QParams
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.recipe.schema import Recipe
from isobit.pipeline.stages import Captured, Reference
from isobit.pipeline.target import Target
from tests.examples.tiny import calibrate_by_range, fill_levels, multibit_recipe

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
        with torch.random.fork_rng():  # the numbers drawn after these stay what they are without them
            self.up = nn.ConvTranspose2d(8, 8, 2, stride=2, dilation=2)
            self.spread = nn.ConvTranspose2d(8, 8, 3, stride=2, padding=2, groups=4, bias=False, dilation=2)
            self.tokens = nn.Linear(8, 8)
            self.slopes = nn.PReLU(8)
            self.halves = nn.Conv2d(4, 4, 3, padding=1)
            self.single = nn.Conv2d(1, 1, 3, padding=1)

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
    "pad_circular": (lambda net, x: F.pad(x, (1, 0, 2, 3), mode="circular"), 8),
    "shuffle": (_shuffle, 8),
    "clamp_above": (lambda net, x: x.clamp(max=0.3), 8),
    "add_constant": (lambda net, x: x + 0.5, 8),
    "neg": (lambda net, x: -x, 8),
    "max_pool_uneven": (lambda net, x: F.max_pool2d(F.pad(x, (0, 1, 1, 0), value=-torch.inf), 3, 2), 8),
    "affine": (lambda net, x: F.relu(8 * x - 0.1) * 0.5 + 0.25, 8),
    "preactivation": (lambda net, x: net.second(F.relu(x)) + x, 8),
    "relu_after_pool": (lambda net, x: F.relu(F.max_pool2d(x, 2)), 8),
    "hardtanh_after_pool": (lambda net, x: F.hardtanh(F.max_pool2d(x, 2), -0.2, 0.3), 8),
    "leaky_relu": (lambda net, x: F.leaky_relu(x, 0.2), 8),
    "leaky_relu_after_sum": (lambda net, x: F.leaky_relu(net.second(x) + x), 8),
    "upsample": (lambda net, x: F.interpolate(x, scale_factor=2), 8),
    "pad_reflect": (lambda net, x: F.pad(x, (1, 2, 3, 0), mode="reflect"), 8),
    "pad_replicate": (lambda net, x: F.pad(x, (1, 2, 3, 0), mode="replicate"), 8),
    "gate_map": (lambda net, x: x * torch.sigmoid(net.second(x)[:, :1]), 8),
    "gate_row": (lambda net, x: torch.sigmoid(F.avg_pool2d(net.second(x), (1, 9))) * x, 8),
    "gate_one": (lambda net, x: x * torch.sigmoid(F.adaptive_avg_pool2d(x, 1)[:, :1]), 8),
    "add_map": (lambda net, x: net.second(x)[:, :1] + x, 8),
    "add_pixel": (lambda net, x: net.second(F.adaptive_avg_pool2d(x, 1)) + x, 8),
    "add_both": (lambda net, x: net.second(x)[:, :1] + F.adaptive_avg_pool2d(x, 1), 8),
    "add_rows": (lambda net, x: F.avg_pool2d(net.second(x), (1, 9)) + F.avg_pool2d(x, (9, 1)), 8),
    "add_sequences": (lambda net, x: (x.flatten(2) + net.second(x).flatten(2)[:, :, :1]).view(-1, 8, 9, 9), 8),
}

# The batch is folded with another axis, or lies on another one.
FOLDED_MIDDLES = {
    "folded": (lambda net, x: F.relu(net.halves(F.relu(x).view(-1, 4, 9, 9))).view(-1, 8, 9, 9), 8),
    "pixels": (lambda net, x: F.relu(net.tokens(x.permute(0, 2, 3, 1).reshape(-1, 8))).view(-1, 9, 9, 8).permute(
        0, 3, 1, 2), 8),
    "batch_second": (lambda net, x: (lambda y: (y + y).permute(1, 0, 2, 3))(net.second(x).permute(1, 0, 2, 3)), 8),
    "channels_in_front": (lambda net, x: net.single(x.transpose(0, 1).reshape(-1, 1, 9, 9)).reshape(
        8, -1, 9, 9).transpose(0, 1), 8),
    "gelu_folded": (lambda net, x: F.gelu(net.halves(x.reshape(-1, 4, 9, 9))).view(-1, 8, 9, 9), 8),
}

# What a target computes in float.
FLOAT_MIDDLES = {
    "scaled": (lambda net, x: F.relu(torch.add(x, x, alpha=2)), 8),
    "gelu": (lambda net, x: F.gelu(net.second(F.relu(x))), 8),
    "softmax": (lambda net, x: net.second(F.relu(x)).softmax(1), 8),
    "layer_norm_gelu": (lambda net, x: F.gelu(F.layer_norm(net.second(F.relu(x)), [9])), 8),
    "conv_transpose": (lambda net, x: net.second(F.relu(net.up(F.relu(x)))), 8),
    "conv_transpose_grouped": (lambda net, x: net.second(net.spread(F.relu(x))), 8),
    "conv_transpose_twice": (lambda net, x: net.second(F.relu(net.up(F.relu(net.spread(F.relu(x)))))), 8),
    "tokens": (lambda net, x: net.second(net.tokens(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)), 8),
    "matmul_constant": (lambda net, x: net.second(torch.matmul(net.tokens.weight, x.flatten(2)).view(-1, 8, 9, 9)), 8),
    "prelu": (lambda net, x: net.slopes(net.second(F.relu(x))), 8),
    "elu": (lambda net, x: F.elu(x), 8),
    "mish": (lambda net, x: F.mish(x), 8),
    "softplus": (lambda net, x: F.softplus(x), 8),
    "tanh": (lambda net, x: torch.tanh(x), 8),
    "exp": (lambda net, x: torch.exp(x), 8),
    "sqrt": (lambda net, x: torch.sqrt(F.relu(x)), 8),
    "abs": (lambda net, x: x.abs(), 8),
    "sub": (lambda net, x: x - net.second(x), 8),
    "div": (lambda net, x: x / (F.relu(net.second(x)) + 1.0), 8),
    "add_scaled": (lambda net, x: torch.add(x, net.second(x), alpha=2), 8),
    "mean_over_channels": (lambda net, x: x - x.mean(1, keepdim=True), 8),
    "matmul": (lambda net, x: torch.matmul(x, net.second(x).transpose(2, 3)), 8),
    "bmm": (lambda net, x: torch.bmm(x.flatten(2), net.second(x).flatten(2).transpose(1, 2)).unsqueeze(-1), 8),
    "matmul_broadcast": (lambda net, x: torch.matmul(x, net.second(x).mean(1).transpose(1, 2).unsqueeze(1)), 8),
    "gelu_read_twice": (lambda net, x: F.gelu(x) + net.second(F.gelu(x).softmax(1)), 8),
}
# Of these, what the ONNX targets run in integers.
PRODUCT_MIDDLES = frozenset({"tokens", "matmul", "bmm"})
# Of these, what integer targets have kernels for, and what they run as a table.
INTEGER_MIDDLES = frozenset({"tokens", "sub", "mean_over_channels"})
TABLE_MIDDLES = frozenset({"gelu", "prelu", "elu", "mish", "softplus", "tanh", "exp", "sqrt", "abs"})


@cache
def _captured(name: str) -> tuple[Captured, Tensor]:
    middle, channels = {**MIDDLES, **FLOAT_MIDDLES, **FOLDED_MIDDLES}[name]
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
    target: Target = TARGETS["generic"],
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
