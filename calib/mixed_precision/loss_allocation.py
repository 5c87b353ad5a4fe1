"""DMBQ's loss-guided bit allocation (LBA): take bits from the groups that miss them least, until few enough remain.

Groups of all layers are pooled; weights and activations are two pools that know nothing of each other. A group's score
is the mean first-order change of the loss over an epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from isobit.calib.training.level_coders import MultibitCoder, NestedCoder

Groups = Literal["channel", "layer", "none"]
FIRST_SHARE, LAST_SHARE = 0.01, 0.30


@dataclass(frozen=True)
class Pool:
    """The coders whose bits are allocated together.

    Args:
        coders: weights, or activations.
        sizes: how many elements one group of each coder has, of one image where it is an activation.
        groups: `channel`, or `layer` for one decision a tensor.
    """

    coders: Sequence[MultibitCoder | NestedCoder]
    sizes: Sequence[int]
    groups: Groups

    @property
    def average(self) -> float:
        """Bits of an element on average."""
        bits = sum(int(coder.bits.sum()) * size for coder, size in zip(self.coders, self.sizes, strict=True))
        return bits / max(1, self.elements)

    @property
    def elements(self) -> int:
        """Elements of all coders."""
        return sum(coder.bits.numel() * size for coder, size in zip(self.coders, self.sizes, strict=True))

    @property
    def count(self) -> int:
        """How many groups there are."""
        return sum(self._pooled(coder.error.total).numel() for coder in self.coders)

    def watch(self, watching: bool) -> None:
        """Begin or end an epoch of counting errors; counting begins at zero."""
        for coder in self.coders:
            coder.error.watching = watching
            coder.error.total.zero_()

    def _pooled(self, values: Tensor) -> Tensor:
        return values if self.groups == "channel" else values.mean(0, keepdim=True)

    def take(self, most: int, target: float) -> int:
        """Take one bit from up to `most` groups, those of the least error first; returns how many lost one.

        No more than are needed to come down to `target` bits on average; groups without a bit left are passed over
        (the authors' code takes from them again, in vain).
        """
        scores = torch.cat([self._pooled(coder.error.total) for coder in self.coders])
        owners = [(place, group) for place, coder in enumerate(self.coders)
                  for group in range(self._pooled(coder.error.total).numel())]
        chosen = [torch.zeros_like(coder.bits, dtype=torch.bool) for coder in self.coders]
        left, taken = (self.average - target) * self.elements, 0
        for index in torch.argsort(scores, stable=True).tolist():
            if taken >= most or left <= 1e-9:
                break
            place, group = owners[index]
            where = slice(group, group + 1) if self.groups == "channel" else slice(None)
            has = self.coders[place].bits[where] > 0
            if not bool(has.any()):
                continue
            chosen[place][where] = has
            left -= int(has.sum()) * self.sizes[place]
            taken += 1
        for coder, groups in zip(self.coders, chosen, strict=True):
            coder.take(groups)
        return taken

    def bring_down(self, target: float) -> None:
        """Take bits until no more than `target` remain on average, or none at all."""
        while self.take(self.count, target):
            continue


def share(epoch: int, window: int, bits: float) -> float:
    """Share of the groups that lose a bit after epoch `epoch` (from 0) of a window: 0.01 rising to 0.30 (released V2).

    In a window so short that this does not sum up to `bits`, which every group loses on average, it rises in
    proportion: the authors' window of 150 epochs needs 37 for two bits.
    """
    ramp = [FIRST_SHARE + (LAST_SHARE - FIRST_SHARE) * place / max(1, window - 1) for place in range(window)]
    return min(1.0, ramp[epoch] * max(1.0, bits / sum(ramp)))
