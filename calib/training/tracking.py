"""Activation ranges that follow the extremes of what passes while a network trains, and then stay.

Four recursions exist in the public code of ZeroQ, GDFQ and FDDA; they are one parameter here. A range starts
at [0, 0] and holds 0 whatever happens.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

from isobit.calib.training.student import ActivationCoder, rounded
from isobit.pipeline.quant.grid import QParams, QuantSpec, params_from_range
from isobit.pipeline.quant.quantizer import Quantizer

Tracking = Literal["union", "ema_raw", "ema_gdfq", "ema_corrected"]
DECAY = 0.9


class Ranged(Protocol):
    """What has a range."""

    def ends(self) -> tuple[Tensor, Tensor]:
        """(lowest, highest) value."""
        ...


class TrackedRange(ActivationCoder):
    """The grid of one activation between tracked extremes; the gradient passes as if nothing had happened.

    Args:
        spec: of the quantizer.
        tracking: what one batch with extremes (lo, hi) does to a range (a, b), here said for b:
            `union`, b = max(b, hi) (ZeroQ); `ema_raw`, b = 0.9 b + 0.1 hi (FDDA); `ema_gdfq`, b = (0.9 b + 0.1 hi) /
            (1 - 0.9^t) with the divided value kept (GDFQ's code: a constant 1 is seen as 3,945 after 21 batches and as
            1.014 after 150); `ema_corrected`, the division without keeping it, which was meant.
        widen: factor on the range.
    """

    def __init__(self, spec: QuantSpec, tracking: Tracking, widen: float = 1.0) -> None:
        super().__init__()
        self.spec, self.tracking, self.widen = spec, tracking, widen
        self.open = True  # still following; `close` ends it
        self._source: tuple[Ranged, ...] = ()  # a tuple: it is registered where it stands in the graph
        for name in ("low", "high", "batches"):
            self.register_buffer(name, torch.zeros(()))

    def close(self) -> None:
        """The range stays as it is from now on."""
        self.open = False

    def take_from(self, source: Ranged) -> None:
        """The range of `source`, as it stands at any time, in the place of one of its own."""
        self._source = (source,)

    def observe(self, x: Tensor) -> None:
        """One batch's extremes enter the range."""
        low, high = (value.float() for value in torch.aminmax(x.detach()))
        self.batches += 1
        if self.tracking == "union":
            self.low, self.high = torch.minimum(self.low, low), torch.maximum(self.high, high)
            return
        correction = 1 - DECAY ** float(self.batches) if self.tracking == "ema_gdfq" else 1.0
        self.low = (DECAY * self.low + (1 - DECAY) * low) / correction
        self.high = (DECAY * self.high + (1 - DECAY) * high) / correction

    def ends(self) -> tuple[Tensor, Tensor]:
        """(lowest, highest) value of the range as it stands."""
        if self._source:
            return self._source[0].ends()
        corrected = self.tracking == "ema_corrected"
        correction = 1 - DECAY ** max(1.0, float(self.batches)) if corrected else 1.0
        return self.low * self.widen / correction, self.high * self.widen / correction

    def params(self) -> QParams:
        """Scale and zero point of the range as it stands."""
        return params_from_range(*self.ends(), self.spec)

    @property
    def scale(self) -> Tensor:
        """As the range stands."""
        return self.params().scale

    def forward(self, x: Tensor) -> Tensor:
        if self.open and not self._source:
            self.observe(x)
        params = self.params()
        return rounded(x, params.scale, params.zero_point, self.spec)

    def settle(self, quantizer: Quantizer) -> None:
        """Write the range into the graph's quantizer."""
        quantizer.set_params(self.params())
