"""Which of equal values comes first where PyTorch leaves that open: as ONNX states of TopK, the one of the lower index.

Values that stand for codes are often equal, so that without an order two libraries give other indices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from isobit.pipeline.graph.nodes import where

aten = torch.ops.aten


def topk(x: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Tensor, Tensor]:
    """`aten.topk`: values and indices of the k largest or smallest, always in order."""
    values, indices = sort(x, dim, largest)
    return values.narrow(dim, 0, k), indices.narrow(dim, 0, k)


def sort(x: Tensor, dim: int = -1, descending: bool = False) -> tuple[Tensor, Tensor]:
    """`aten.sort`: values and indices."""
    values, indices = torch.sort(x, dim=dim, descending=descending, stable=True)
    return values, indices


# What stands for an operator that leaves the order of equal values open.
ORDERED: Mapping[Any, Callable[..., Any]] = {aten.topk.default: topk, aten.sort.default: sort}


def call(node: fx.Node, value: Callable[[fx.Node], Any]) -> Any:
    """What the function that `node` calls gives where `value` says what each node that it reads stands for.

    Of equal values it puts the lower index first.
    """
    if isinstance(node.target, str):
        raise TypeError(f"{where(node)} calls no function")
    args, kwargs = map_arg((node.args, node.kwargs), value)
    return ORDERED.get(node.target, node.target)(*args, **kwargs)
