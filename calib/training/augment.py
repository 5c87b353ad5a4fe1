"""Samples made from samples: what a network learns from its float self on few of them, it should learn beside them too.

No label is needed: the float network answers for what was made as it does for what was given. So a mixture of two
samples needs no mixture of labels, and what a sample means may change.

    mix      every second sample, by chance, becomes (1 - r) x + r x', x' another of the batch, r even in [0, 1/2]
    shift    maps and lines are moved by at most an eighth of each length; their edges are repeated
    flip     every second map, by chance, is mirrored along its last axis
    noise    normal, with a tenth of the batch's standard deviation

mixup: Zhang, Cisse, Dauphin, Lopez-Paz, ICLR 2018, arXiv 1710.09412, there with labels. Integers stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from isobit.pipeline.recipe.schema import Augmentation
from isobit.pipeline.samples.network_inputs import Inputs, tensors

SHIFTED = 8  # a shift is one part in so many of a length, at most
NOISE = 0.1
MOST_MIXED = 0.5

Maker = Callable[[Tensor, np.random.Generator], Tensor]


def augmented(inputs: Inputs, kinds: Sequence[Augmentation], random: np.random.Generator) -> Inputs:
    """A batch of samples [N, ...], changed by each of `kinds` in turn, in the memory order of the given one."""
    found = []
    for given in tensors(inputs):
        values = given
        for kind in kinds if values.is_floating_point() else ():
            values = _MAKERS[kind](values, random)
        # Gathered values come in another order of memory, which kernels would have to copy into theirs.
        found.append(values if values is given else torch.empty_like(given).copy_(values))
    return tuple(found) if isinstance(inputs, tuple) else found[0]


def _mix(x: Tensor, random: np.random.Generator) -> Tensor:
    count = len(x)
    share = random.uniform(0.0, MOST_MIXED, count) * random.integers(0, 2, count)
    others = x[torch.from_numpy(random.permutation(count)).to(x.device)]
    return torch.lerp(x, others, _each(share, x))


def _shift(x: Tensor, random: np.random.Generator) -> Tensor:
    for axis in range(2, x.dim()):
        length, farthest = x.shape[axis], x.shape[axis] // SHIFTED
        moves = torch.from_numpy(random.integers(-farthest, farthest + 1, len(x))).to(x.device)
        places = (torch.arange(length, device=x.device) - moves[:, None]).clamp(0, length - 1)
        shape = [len(x), *([1] * (x.dim() - 1))]
        shape[axis] = length
        x = x.gather(axis, places.reshape(shape).expand_as(x))
    return x


def _flip(x: Tensor, random: np.random.Generator) -> Tensor:
    if x.dim() != 4:
        return x
    return torch.where(_each(random.integers(0, 2, len(x)), x).bool(), x.flip(3), x)


def _noise(x: Tensor, random: np.random.Generator) -> Tensor:
    drawn = torch.from_numpy(random.standard_normal(tuple(x.shape), dtype=np.float32)).to(x)
    return x + drawn * (NOISE * x.std())


def _each(values: np.ndarray, like: Tensor) -> Tensor:
    """One number for each sample, to broadcast."""
    return torch.from_numpy(values).to(like).reshape(-1, *[1] * (like.dim() - 1))


_MAKERS: dict[Augmentation, Maker] = {"mix": _mix, "shift": _shift, "flip": _flip, "noise": _noise}
