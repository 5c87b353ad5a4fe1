"""The scales of a unit's weights, learned beside their rounding (Genie-M).

Jeon, Lee, Kim: Genie: Show Me the Data for Quantization, CVPR 2023, arXiv 2212.04780, section 3.2. The code
below a weight is decided once, at the scale s0 that was searched; the scale that codes are multiplied with is free:

    weight = s * clamp(floor(w / s0) + h, qmin - zero_point, qmax - zero_point)
    d/ds_c = sum over the weights of channel c of gradient * code

Adam, its rate to 0 by cosine. The rate is of s / s0, so that it means the same in every channel: scales of folded batch
norms lie orders of magnitude apart, and Adam's steps are of the rate's size whatever the gradient's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from isobit.calib.rates import cosine_factor
from isobit.pipeline.quant.grid import QParams
from isobit.pipeline.quant.quantizer import Quantizer

LEAST = 0.1  # of s / s0


class ChannelScales:
    """One factor s / s0 for each channel of each weight that has a scale of its own.

    Args:
        parts: (quantizer, number of its weights) in the order of the flat buffer, in which channels are contiguous.
        learning_rate: of the first step, relative to the scales.
        steps: of the run.

    Attributes:
        factors: the flat parameter [channels of all weights] that Adam moves.
        gradient: of the loss by `factors`.
    """

    def __init__(self, parts: Sequence[tuple[Quantizer, int]], learning_rate: float, steps: int) -> None:
        quantizers = [quantizer for quantizer, _ in parts]
        self._before = [quantizer.params for quantizer in quantizers]
        self._quantizers = quantizers
        sizes = [quantizer.scale.numel() for quantizer in quantizers]
        self._start = torch.cat([params.scale.reshape(-1).float() for params in self._before])
        lengths = torch.cat([
            torch.full((size,), count // size) for size, (_, count) in zip(sizes, parts, strict=True)
        ])
        device = self._start.device
        self._ends = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]).to(device)
        self._channel = torch.arange(len(lengths)).repeat_interleave(lengths).to(device)
        self._scales = self._start.clone()
        self._views = list(self._scales.split(sizes))
        self.factors = torch.nn.Parameter(torch.ones_like(self._start))
        self.gradient = self.factors.grad = torch.zeros_like(self._start)
        rates = [learning_rate * cosine_factor(step, steps) for step in range(steps)]
        self._rates = torch.tensor(rates, device=device)
        self._rate = torch.zeros((), device=device)
        self._optimiser = torch.optim.Adam(
            [self.factors], lr=self._rate, fused=True, capturable=device.type == "cuda"
        )

    def attach(self) -> None:
        """Let the quantizers show the scales of every step: int32 biases read them."""
        for quantizer, view, params in zip(self._quantizers, self._views, self._before, strict=True):
            quantizer.scale = view.view(params.scale.shape)

    def detach(self) -> None:
        """Give the quantizers the scales that they had."""
        for quantizer, params in zip(self._quantizers, self._before, strict=True):
            quantizer.set_params(params)

    @torch.no_grad()
    def spread(self, out: Tensor) -> None:
        """Write the scale of every weight into `out`, flat [weights]."""
        torch.mul(self._start, self.factors, out=self._scales)
        torch.index_select(self._scales, 0, self._channel, out=out)

    @torch.no_grad()
    def collect(self, cursor: Tensor, gradient: Tensor, codes: Tensor) -> None:
        """One step of Adam.

        Args:
            cursor: int64 [1] on the device, the step from 0.
            gradient: of the loss by the weights that the unit saw, flat [weights].
            codes: of these weights, minus the zero point.
        """
        sums = torch.segment_reduce(gradient * codes, "sum", offsets=self._ends, unsafe=True)
        torch.mul(sums, self._start, out=self.gradient)
        self._rate.copy_(self._rates.index_select(0, cursor).view(()))
        self._optimiser.step()
        self.factors.clamp_(min=LEAST)

    @torch.no_grad()
    def store(self) -> list[Tensor]:
        """Store the learned scales, those that are finite; returns the scale at which each weight was rounded."""
        scales = self._start * self.factors
        scales = torch.where(torch.isfinite(scales), scales, self._start)
        for quantizer, part, params in zip(
            self._quantizers, scales.split([len(view) for view in self._views]), self._before, strict=True
        ):
            quantizer.set_params(QParams(part.clone().view(params.scale.shape), params.zero_point))
        return [params.scale for params in self._before]
