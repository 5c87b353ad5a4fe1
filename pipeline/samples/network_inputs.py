"""What a network reads at once: one tensor, or a tuple of tensors where it has several inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# One tensor [N, ...], or a tuple of such in the order of the graph's inputs, all with the same N.
Inputs = Tensor | tuple[Tensor, ...]


def tensors(inputs: Inputs) -> tuple[Tensor, ...]:
    """Every input, in the order of the graph's: the arguments of a graph."""
    return inputs if isinstance(inputs, tuple) else (inputs,)


def only(inputs: Inputs) -> Tensor:
    """The one input of a network that has no other; raises ValueError where there are several."""
    (tensor,) = tensors(inputs)
    return tensor


def grouped(values: Sequence[Tensor]) -> Inputs:
    """The tensor itself where there is one, all of them as a tuple where there are several."""
    return values[0] if len(values) == 1 else tuple(values)


def sample_count(inputs: Inputs) -> int:
    """N."""
    return len(tensors(inputs)[0])


def part(inputs: Inputs, index: slice | Tensor | Sequence[int]) -> Inputs:
    """The samples at `index` of every input."""
    return grouped([tensor[index] for tensor in tensors(inputs)])


def on_device(inputs: Inputs, device: torch.device) -> Inputs:
    """The same inputs on `device`."""
    return grouped([tensor.to(device) for tensor in tensors(inputs)])


def in_floats(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    """The same with every floating-point input in `dtype`; integers stay what they are."""
    return grouped([tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in tensors(inputs)])


def copied(inputs: Inputs) -> Inputs:
    """The same values in memory of their own."""
    return grouped([tensor.clone() for tensor in tensors(inputs)])


def shapes(inputs: Inputs) -> tuple[tuple[int, ...], ...]:
    """Of one sample of each input, (C, H, W) of images [N, C, H, W]."""
    return tuple(tuple(tensor.shape[1:]) for tensor in tensors(inputs))


def run_graph(graph: Callable[..., Inputs], inputs: Inputs) -> tuple[Tensor, ...]:
    """Every output of a network for `inputs`, in the order of the graph's."""
    return tensors(graph(*tensors(inputs)))
