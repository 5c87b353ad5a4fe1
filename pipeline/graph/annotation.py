"""What is to be quantized around a node, and why: written by `annotate`, kept in the node's meta to the last stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import fx

from isobit.pipeline.quant.grid import QuantSpec

META, META_FLOAT, META_OVERRIDE = "quant", "kept_float", "float_override"

# input: the network's input. own: what an operator computes, at the recipe's bits or those of its readers. inner: a
# branch that enters only residual sums, which papers leave in float. float: what a float operator hands to an integer
# one. fixed: a grid that the target prescribes.
Kind = Literal["input", "own", "inner", "float", "fixed"]


@dataclass(frozen=True)
class Annotation:
    """What `insert_quantizers` does at a node.

    Args:
        output: spec of the quantizer after the node; None for none.
        kind: what the quantizer after the node holds; None for none.
        fixed: scale and zero point that the target prescribes for it.
        weight: spec of the quantizer on the node's weight.
        bias: the node's bias becomes int32.
        note: why the bits are what they are, where it is not simply the recipe's rule.
    """

    output: QuantSpec | None = None
    kind: Kind | None = None
    fixed: tuple[float, int] | None = None
    weight: QuantSpec | None = None
    bias: bool = False
    note: str = ""


def kept_float(node: fx.Node) -> str:
    """Why the recipe keeps an operator in float that the target computes in integers; empty where it does not."""
    return node.meta.get(META_FLOAT, "")


def float_override(node: fx.Node) -> str:
    """The `where` of the recipe's override that keeps an operator in float; empty where none does."""
    return node.meta.get(META_OVERRIDE, "")


def keep_float(node: fx.Node, reason: str, override: str = "") -> None:
    """Keep an operator in float; an empty reason forgets an earlier one. See `float_override`."""
    node.meta[META_FLOAT], node.meta[META_OVERRIDE] = reason, override


def annotation_of(node: fx.Node) -> Annotation | None:
    """What was decided for `node`; None where nothing was."""
    return node.meta.get(META)


def set_annotation(node: fx.Node, annotation: Annotation | None) -> None:
    """Keep the decision for `node`; None forgets an earlier one."""
    node.meta.pop(META, None)
    if annotation is not None:
        node.meta[META] = annotation
