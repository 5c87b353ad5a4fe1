"""What a network reads at once: one tensor, or a tuple of tensors where it has several inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from isobit.pipeline.errors import InputError

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
    """The shape of one sample of each input, (C, H, W) of images [N, C, H, W]."""
    return tuple(tuple(tensor.shape[1:]) for tensor in tensors(inputs))


def raw_inputs(inputs: Inputs | np.ndarray, integers: Sequence[bool], names: Sequence[str] = ()) -> np.ndarray:
    """uint8 [N, bytes]: each sample as devices read it, one input after the other: float32, or int32 for `integers`.

    Args:
        inputs: [N, ...] each.
        integers: whether each holds integers.
        names: of the inputs, for the error.

    Raises:
        InputError: an integer that int32 does not hold.
    """
    values = (inputs,) if isinstance(inputs, np.ndarray) else tuple(tensor.numpy() for tensor in tensors(inputs))
    for place, (value, whole) in enumerate(zip(values, integers, strict=True)):
        if whole:
            _check_int32(value, names[place] if names else str(place))
    rows = [
        np.ascontiguousarray(value, np.int32 if whole else np.float32).reshape(len(value), -1).view(np.uint8)
        for value, whole in zip(values, integers, strict=True)
    ]
    return np.concatenate(rows, 1)


def _check_int32(value: np.ndarray, name: str) -> None:
    limits = np.iinfo(np.int32)
    outside = value[(value < limits.min) | (value > limits.max)]
    if outside.size:
        raise InputError(
            f"input '{name}' holds {outside.flat[0]}, which devices cannot read: they read int32",
            allowed=f"integers from {limits.min} to {limits.max}",
        )


def in_numpy(value: Tensor) -> np.ndarray:
    """float32 in the processor's memory, from any device and type."""
    return value.detach().to("cpu", torch.float32).numpy()


def run_graph(graph: Callable[..., Inputs], inputs: Inputs) -> tuple[Tensor, ...]:
    """Every output of a network for `inputs`, in the order of the graph's."""
    return tensors(graph(*tensors(inputs)))
