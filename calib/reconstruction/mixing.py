"""QDrop's activations in training: fake-quantized and float elements mixed at random, the scale learned (LSQ).

One autograd function holds fake-quantization, mixture and both closed-form gradients: six passes over the tensor
forward, four backward, and one saved tensor besides the input. A
dropped element passes gradient 1 to x even outside the clip range, and none to the scale.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from isobit.pipeline.quant.quantizer import Quantizer

# abs(round(u) - u) <= 1/2 tells an element inside the range; the margin is for ties in float32.
_HALF = 0.5 + 1e-6
# A probability; a tensor of rank 0 on the device where it changes with the step.
Keep = float | Tensor


class MaskSource:
    """Element-wise random masks of 0.0 and 1.0, fresh at every call.

    On a CPU the bits come from NumPy's SFC64 (one bit an element for a probability of 1/2, sixteen otherwise), several
    times faster than `torch.rand`; elsewhere from a torch generator on the device, which a CUDA graph can record.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.generator: torch.Generator | None = None
        if device.type != "cpu":
            self.generator = torch.Generator(device)
            self.generator.manual_seed(seed)
        self._bits = np.random.Generator(np.random.SFC64(seed))

    def draw(self, like: Tensor, keep: Keep) -> Tensor:
        """A mask in the shape and memory order of `like`; an element is 1 with probability `keep` (to 2^-16)."""
        if self.generator is not None:
            # Drawn contiguous: the order in memory of independent bits does not matter.
            random = torch.rand(like.shape, device=like.device, generator=self.generator)
            return (random < keep).to(like.dtype)
        count = like.numel()
        if keep == 0.5:
            words = self._bits.integers(0, 2**64, -(-count // 64), dtype=np.uint64)
            ones = np.unpackbits(words.view(np.uint8), count=count)
        else:
            words = self._bits.integers(0, 2**64, -(-count // 4), dtype=np.uint64)
            ones = np.less(words.view(np.uint16)[:count], round(float(keep) * 2**16)).view(np.uint8)
        mask = torch.empty_like(like)
        places = flat(mask)
        if places.untyped_storage().data_ptr() != mask.untyped_storage().data_ptr():  # a copy: [N, T, C] of a GRU
            return mask.copy_(torch.from_numpy(ones).view(like.shape))
        places.copy_(torch.from_numpy(ones))
        return mask


def flat(x: Tensor) -> Tensor:
    """The elements of a dense tensor in memory order, without a copy; a copy where it is not dense."""
    if x.dim() == 4 and not x.is_contiguous():
        x = x.permute(0, 2, 3, 1)
    return x.reshape(-1)


class Annealed:
    """The probability that an activation stays quantized: constant, or rising to 1 in a straight line.

    EPTQ (Gordon, Cohen, Habi, Netzer, arXiv 2309.11531) calls the second gradual activation quantization.

    Args:
        start: at the first step.
        share: of the steps after which it is 1; 0 where it stays at `start`.
    """

    def __init__(self, start: float, share: float, steps: int, device: torch.device) -> None:
        self.now: Keep = start
        self._table: Tensor | None = None
        if share > 0.0 and start < 1.0:
            rise = [start + (1.0 - start) * min(1.0, step / (share * steps)) for step in range(steps)]
            self._table, self.now = torch.tensor(rise, device=device), torch.tensor(start, device=device)

    def move(self, cursor: Tensor) -> None:
        """Go to the step `cursor`, int64 [1] on the device; waits for nothing."""
        if self._table is not None and isinstance(self.now, Tensor):
            self.now.copy_(self._table.index_select(0, cursor).view(()))


class _MixedFakeQuantize(torch.autograd.Function):
    """where(mask, fake_quantize(x), x); no mask means 1 everywhere."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, mask: Tensor | None, low: float, high: float, factor: float
    ) -> Tensor:
        ratio = x / scale
        offset = torch.round(ratio).clamp_(low, high)
        # Without a mask the value itself, so that it is bit-identical to the quantizer's.
        whole = offset * scale if mask is None else None
        offset.sub_(ratio)
        if mask is not None:
            offset.mul_(mask)
        ctx.save_for_backward(x, scale, offset)
        ctx.factor = factor
        return torch.addcmul(x, offset, scale) if whole is None else whole

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, scale, offset = ctx.saved_tensors
        if grad.stride() != x.stride():
            grad = torch.empty_like(x).copy_(grad)
        passed = torch.ops.aten.hardtanh_backward(grad, offset, -_HALF, _HALF)
        inner = torch.dot(flat(grad), flat(offset))
        # Outside the range the scale's gradient is the clipped code, offset + x / scale.
        clipped = torch.dot(flat(grad - passed), flat(x))
        return passed, torch.addcdiv(inner, clipped, scale).mul_(ctx.factor), None, None, None, None


class Mixing:
    """What a quantizer does while its unit is trained: mix, and learn the scale.

    Args:
        quantizer: per tensor, with its range set; its scale is taken from `scale`.
        scale: the leaf tensor, rank 0, that the optimiser moves.
        keep: probability that an element keeps its quantized value.
        masks: where random bits come from.
        gradient_factor: damp the scale's gradient by 1 / sqrt(elements of the mini-batch * highest code).
        world: how many processes share a mini-batch.
    """

    def __init__(
        self, quantizer: Quantizer, scale: Tensor, keep: Keep, masks: MaskSource, gradient_factor: bool,
        world: int = 1,
    ) -> None:
        grid, zero_point = quantizer.spec.grid, int(quantizer.zero_point)
        self.scale, self.keep, self.masks, self.gradient_factor = scale, keep, masks, gradient_factor
        self.low, self.high = float(grid.qmin - zero_point), float(grid.qmax - zero_point)
        self.span = world * (grid.qmax if grid.signed else grid.qmax - grid.qmin)

    def __call__(self, x: Tensor) -> Tensor:
        if isinstance(self.keep, Tensor):
            mask: Tensor | None = self.masks.draw(x, self.keep)
        elif self.keep == 0.0:
            return x
        else:
            mask = self.masks.draw(x, self.keep) if self.keep < 1.0 else None
        factor = 1.0 / math.sqrt(x.numel() * self.span) if self.gradient_factor else 1.0
        return _MixedFakeQuantize.apply(x, self.scale, mask, self.low, self.high, factor)


def mix_inputs(quantized: Tensor, teacher: Tensor, keep: Keep, masks: MaskSource) -> Tensor:
    """The unit's input: `quantized` with probability `keep`, else `teacher`, element by element."""
    if isinstance(keep, Tensor):
        return torch.lerp(teacher, quantized, masks.draw(quantized, keep))
    if keep >= 1.0:
        return quantized
    if keep <= 0.0:
        return teacher
    return torch.lerp(teacher, quantized, masks.draw(quantized, keep))
