"""What random networks are made of: how each operation is drawn, and what it computes, one row each."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shape = tuple[int, ...]
Parameters = Mapping[str, Any]
SCALES = (1e-6, 1e-3, 1.0, 1.0, 1.0, 1.0, 1e3, 1e6)


@dataclass(frozen=True)
class Operation:
    """One row.

    Args:
        draw: (chance, shapes of one sample of the operands) -> parameters, as plain data.
        run: (parameters, operands) -> result; with a layer the layer comes first.
        layer: (parameters, shape of one sample) -> the module that holds its numbers; None for operations without.
        ranks: of one sample, that it takes.
        operands: how many tensors it reads; two have the same shape but where `joins`.
        joins: operands need not agree along the first axis.
        often: how often it is drawn beside others.
    """

    draw: Callable[[random.Random, Sequence[Shape]], dict[str, Any]]
    run: Callable[..., Tensor]
    layer: Callable[[Parameters, Shape], nn.Module] | None = None
    ranks: tuple[int, ...] = (1, 2, 3)
    operands: int = 1
    joins: bool = False
    often: int = 1


# -- layers ---------------------------------------------------------------------------------------------------------


def _weights(chance: random.Random) -> dict[str, Any]:
    """What is drawn of every layer with weights."""
    return {
        "seed": chance.randrange(1000), "scale": chance.choice(SCALES), "bias": chance.choice((True, True, False)),
        "dead": chance.random() < 0.15, "outlier": chance.random() < 0.15,
    }


def _filled(module: Any, parameters: Parameters) -> nn.Module:
    """A layer with its random numbers: one channel in three dead, one weight a thousand times larger."""
    chance = torch.Generator().manual_seed(parameters["seed"])
    with torch.no_grad():
        weight = module.weight
        fan = max(1, weight.numel() // weight.shape[0])
        weight.copy_(torch.randn(weight.shape, generator=chance) * parameters["scale"] / fan**0.5)
        if parameters["outlier"]:
            weight.view(-1)[0] *= 1000
        if parameters["dead"]:
            weight[::3] = 0
        if module.bias is not None:
            module.bias.copy_(torch.randn(module.bias.shape, generator=chance) * parameters["scale"])
    return module


def _convolution(dims: int, transposed: bool) -> Operation:
    name = f"Conv{'Transpose' if transposed else ''}{dims}d"

    def draw(chance: random.Random, shapes: Sequence[Shape]) -> dict[str, Any]:
        channels = shapes[0][0]
        groups = chance.choice([1, 1, channels] + [each for each in (2, 3) if channels % each == 0])
        shape = {
            "channels": groups * chance.choice((1, 2, 3, 5)) if groups > 1 else chance.choice((1, 3, 4, 7, 8)),
            "groups": groups, "kernel": [chance.choice((1, 1, 2, 3, 3, 5)) for _ in range(dims)],
            "stride": [chance.choice((1, 1, 1, 2, 3)) for _ in range(dims)],
            "padding": [chance.choice((0, 1, 1, 2)) for _ in range(dims)],
            "dilation": [chance.choice((1, 1, 1, 2)) for _ in range(dims)],
        }
        return {**shape, **_weights(chance)}

    def layer(p: Parameters, shape: Shape) -> nn.Module:
        sizes = {key: p[key] for key in ("stride", "padding", "dilation", "groups", "bias")}
        return _filled(getattr(nn, name)(shape[0], p["channels"], p["kernel"], **sizes), p)

    often = 4 if transposed else 45 if dims == 2 else 20
    return Operation(draw, lambda module, p, x: module(x), layer, (dims + 1,), often=often)


def _linear(p: Parameters, shape: Shape) -> nn.Module:
    return _filled(nn.Linear(shape[-1], p["channels"], bias=p["bias"]), p)


def _batch_norm(p: Parameters, shape: Shape) -> nn.Module:
    module = {1: nn.BatchNorm1d, 2: nn.BatchNorm1d, 3: nn.BatchNorm2d}[len(shape)](shape[0])
    chance = torch.Generator().manual_seed(p["seed"])
    with torch.no_grad():
        module.weight.copy_(torch.randn(shape[0], generator=chance) * p["scale"])
        module.bias.copy_(torch.randn(shape[0], generator=chance))
        module.running_mean.copy_(torch.randn(shape[0], generator=chance) * 0.3)
        module.running_var.copy_(torch.rand(shape[0], generator=chance) + 0.1)
        if p["dead"]:
            module.weight[::3], module.running_var[::3] = 0, 0
    return module


def _layer_norm(p: Parameters, shape: Shape) -> nn.Module:
    return nn.LayerNorm(shape[-1])


# -- operations without numbers of their own ------------------------------------------------------------------------


def _nothing(chance: random.Random, shapes: Sequence[Shape]) -> dict[str, Any]:
    return {}


def _drawn(**choices: Sequence[Any]) -> Callable[[random.Random, Sequence[Shape]], dict[str, Any]]:
    """Each parameter is one of some values."""
    return lambda chance, shapes: {name: chance.choice(values) for name, values in choices.items()}


def _axis(chance: random.Random, shapes: Sequence[Shape]) -> dict[str, Any]:
    return {"dim": chance.randrange(1, len(shapes[0]) + 1)}


def _pad(chance: random.Random, shapes: Sequence[Shape]) -> dict[str, Any]:
    rank = len(shapes[0])
    mode = chance.choice(["constant", "constant", *(["reflect", "replicate", "circular"] if rank > 1 else [])])
    axes = rank - 1 if mode != "constant" else chance.randrange(1, rank + 1)
    pads = [chance.choice((0, 1, 2) if mode != "constant" else (0, 1, 2, -1)) for _ in range(2 * axes)]
    return {"pad": pads, "mode": mode, "value": chance.choice((0.0, 0.0, 0.0, 1.5)) if mode == "constant" else None}


def _permute(chance: random.Random, shapes: Sequence[Shape]) -> dict[str, Any]:
    order = list(range(1, len(shapes[0]) + 1))
    chance.shuffle(order)
    return {"dims": [0, *order]}


def _slice(chance: random.Random, shapes: Sequence[Shape]) -> dict[str, Any]:
    dim = chance.randrange(1, len(shapes[0]) + 1)
    return {"dim": dim, "start": chance.choice((0, 1)), "step": chance.choice((1, 1, 2)), "cut": chance.choice((0, 1))}


def _sliced(p: Parameters, x: Tensor) -> Tensor:
    index = [slice(None)] * x.dim()
    index[p["dim"]] = slice(p["start"], x.shape[p["dim"]] - p["cut"], p["step"])
    return x[tuple(index)]


def _chunk(p: Parameters, x: Tensor) -> Tensor:
    first, second = x.chunk(2, 1)
    return second * torch.sigmoid(first) if p["gate"] and first.shape == second.shape else second


def _pool(kind: str) -> Operation:
    def draw(chance: random.Random, shapes: Sequence[Shape]) -> dict[str, Any]:
        sizes = {"kernel_size": chance.choice((2, 3)), "stride": chance.choice((1, 2, 3)),
                 "padding": chance.choice((0, 1)), "ceil_mode": chance.choice((False, False, True))}
        return sizes | ({"count_include_pad": chance.choice((True, False))} if kind == "avg_pool" else
                        {"dilation": chance.choice((1, 1, 2))})

    def run(p: Parameters, x: Tensor) -> Tensor:
        return getattr(F, f"{kind}{x.dim() - 2}d")(x, **p)

    return Operation(draw, run, ranks=(2, 3), often=2)


def _attention(p: Parameters, x: Tensor) -> Tensor:
    return torch.softmax(x @ x.transpose(-1, -2) * 0.3, -1) @ x


UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu, "relu6": F.relu6, "hardtanh": F.hardtanh, "leaky_relu": F.leaky_relu, "sigmoid": torch.sigmoid,
    "hardsigmoid": F.hardsigmoid, "hardswish": F.hardswish, "silu": F.silu, "elu": F.elu, "celu": F.celu,
    "selu": F.selu, "gelu": F.gelu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"), "mish": F.mish,
    "softplus": F.softplus, "logsigmoid": F.logsigmoid, "hardshrink": F.hardshrink, "softshrink": F.softshrink,
    "tanh": torch.tanh, "abs": torch.abs, "neg": torch.neg, "erf": torch.erf, "sin": torch.sin, "cos": torch.cos,
    "atan": torch.atan, "sign": torch.sign, "floor": torch.floor, "ceil": torch.ceil, "exp": torch.exp,
    "exp2": torch.exp2, "expm1": torch.expm1, "log": torch.log, "log2": torch.log2, "log10": torch.log10,
    "log1p": torch.log1p, "sqrt": torch.sqrt, "rsqrt": torch.rsqrt, "reciprocal": torch.reciprocal,
    "square": lambda x: x**2, "cube": lambda x: x**3, "threshold": lambda x: F.threshold(x, 0.3, -0.2),
    "two_to": lambda x: 2.0**x, "plus": lambda x: x + 0.7, "minus": lambda x: x - 3.0, "from": lambda x: 1.0 - x,
    "times": lambda x: x * -0.3, "over": lambda x: x / 7.0, "at_least": lambda x: x.clamp(min=-0.5),
    "at_most": lambda x: x.clamp(max=0.5), "clip": lambda x: x.clamp(-1.3, 2.1), "by_itself": lambda x: x * x,
    "twice": lambda x: x + x, "gate_itself": lambda x: x * torch.sigmoid(x),
    "hard_gate": lambda x: x * F.hardsigmoid(x),
}
COMMON = ("relu", "relu6", "leaky_relu", "sigmoid", "hardswish", "silu", "gelu", "tanh")

OPERATIONS: dict[str, Operation] = {
    "conv2d": _convolution(2, False), "conv1d": _convolution(1, False),
    "conv_transpose2d": _convolution(2, True), "conv_transpose1d": _convolution(1, True),
    "linear": Operation(
        lambda chance, shapes: {"channels": chance.choice((1, 3, 5, 8)), **_weights(chance)},
        lambda module, p, x: module(x), _linear, often=12),
    "batch_norm": Operation(
        lambda chance, shapes: {"seed": chance.randrange(1000), "scale": chance.choice(SCALES),
                                "dead": chance.random() < 0.15},
        lambda module, p, x: module(x), _batch_norm, often=10),
    "layer_norm": Operation(_nothing, lambda module, p, x: module(x), _layer_norm),
    "prelu": Operation(_nothing, lambda module, p, x: module(x), lambda p, shape: nn.PReLU(shape[0]), (1, 2, 3)),
    **{name: Operation(_nothing, lambda p, x, function=function: function(x), often=3 if name in COMMON else 1)
       for name, function in UNARY.items()},
    "add": Operation(_nothing, lambda p, x, y: x + y, operands=2, often=12),
    "sub": Operation(_nothing, lambda p, x, y: x - y, operands=2, often=2),
    "mul": Operation(_nothing, lambda p, x, y: x * y, operands=2, often=3),
    "gate": Operation(_nothing, lambda p, x, y: x * torch.sigmoid(y), operands=2, often=4),
    "cat": Operation(_nothing, lambda p, x, y: torch.cat([x, y], 1), operands=2, joins=True, often=8),
    "squeeze_gate": Operation(_nothing, lambda p, x: x * F.hardsigmoid(x.mean((2, 3), keepdim=True)), ranks=(3,)),
    "chunk": Operation(_drawn(gate=(True, False)), _chunk, often=3),
    "max_pool": _pool("max_pool"), "avg_pool": _pool("avg_pool"),
    "global_pool": Operation(_nothing, lambda p, x: F.adaptive_avg_pool2d(x, 1), ranks=(3,), often=2),
    "mean": Operation(_axis, lambda p, x: x.mean(p["dim"]), ranks=(2, 3), often=2),
    "mean_space": Operation(_nothing, lambda p, x: x.mean((2, 3)), ranks=(3,), often=2),
    "amax": Operation(_axis, lambda p, x: x.amax(p["dim"], keepdim=True), ranks=(2, 3)),
    "flatten": Operation(_nothing, lambda p, x: x.flatten(1), ranks=(2, 3), often=2),
    "split_axis": Operation(_nothing, lambda p, x: x.reshape(x.shape[0], 2, -1), often=1),
    "permute": Operation(_permute, lambda p, x: x.permute(p["dims"]), ranks=(2, 3), often=2),
    "slice": Operation(_slice, _sliced, often=2),
    "pad": Operation(_pad, lambda p, x: F.pad(x, p["pad"], p["mode"], p["value"]), often=4),
    "flip": Operation(_axis, lambda p, x: x.flip(p["dim"])),
    "roll": Operation(_axis, lambda p, x: x.roll(1, p["dim"])),
    "repeat": Operation(_axis, lambda p, x: x.repeat_interleave(2, p["dim"])),
    "nearest": Operation(_drawn(scale_factor=(2, 3, 1.5)), lambda p, x: F.interpolate(x, mode="nearest", **p),
                         ranks=(2, 3)),
    "bilinear": Operation(_drawn(align_corners=(True, False)),
                          lambda p, x: F.interpolate(x, scale_factor=2, mode="bilinear", **p), ranks=(3,)),
    "pixel_shuffle": Operation(_nothing, lambda p, x: F.pixel_shuffle(x, 2), ranks=(3,)),
    "pixel_unshuffle": Operation(_nothing, lambda p, x: F.pixel_unshuffle(x, 2), ranks=(3,)),
    "channel_shuffle": Operation(_nothing, lambda p, x: F.channel_shuffle(x, 2), ranks=(3,)),
    "softmax": Operation(_axis, lambda p, x: torch.softmax(x, p["dim"])),
    "attention": Operation(_nothing, _attention, ranks=(2, 3)),
}
