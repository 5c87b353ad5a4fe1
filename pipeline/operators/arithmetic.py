"""Operators of several tensors or elements that every runtime has integer kernels for: one row each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

# A weight and an optional bias; averages over space; sums and products of two tensors; tensors joined along an axis.
Kind = Literal["layer", "average", "sum", "product", "joined"]


@dataclass(frozen=True)
class ArithmeticOperator:
    """One operator, by its canonical name (`pipeline.graph.nodes.op_name`).

    Args:
        kind: what it computes, which says how quantizers, units and signs are decided around it.
        features: its channels are the last axis of its result; else axis 1, or that of what it reads.
    """

    kind: Kind
    features: bool = False


ARITHMETIC: Mapping[str, ArithmeticOperator] = {
    "conv2d": ArithmeticOperator("layer"),
    "linear": ArithmeticOperator("layer", features=True),
    "mean": ArithmeticOperator("average"),
    "avg_pool2d": ArithmeticOperator("average"),
    "add": ArithmeticOperator("sum"),
    "mul": ArithmeticOperator("product"),
    "cat": ArithmeticOperator("joined"),
}


def of_kind(*kinds: Kind) -> frozenset[str]:
    """The names of the operators of some kinds."""
    return frozenset(name for name, row in ARITHMETIC.items() if row.kind in kinds)
