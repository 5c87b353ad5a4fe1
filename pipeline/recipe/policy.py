"""Bit policies: which layers keep 8 bits in which paper, as overrides that run before the recipe's own.

| policy | first layer: weights | its output | last layer: weights | its input |
|---|---|---|---|---|
| `none` | the recipe's bits | the recipe's | the recipe's | the recipe's |
| `qdrop` (QDrop, PD-Quant) | 8 | the recipe's | 8 | 8 |
| `brecq` (BRECQ's released script) | 8 | 8 | 8 | 8 where the layer before it enters no sum |
| `brecq-intended` (BRECQ's paper), `captq` | 8 | 8 | 8 | 8 |
| `depthwise` | 8 | 8 | 8 | 8; and the weights of every depthwise convolution |

Depthwise convolutions hold few of a network's weights and add few products, over which errors of rounding would cancel:
8 bits there cost little and are worth the most.

The script of BRECQ wants 8 bits at the classifier's input and sets them on the quantizer of the second-to-last
*layer*. In a residual network that layer feeds a sum and its quantizer is switched off, so the classifier's input
keeps the low bits there; in MobileNetV2 or a DS-CNN it is the right one. A policy may find nothing to change in a
network; an override that a recipe states itself may not.
"""

from __future__ import annotations

from collections.abc import Mapping

from isobit.pipeline.recipe.schema import OPERATOR, Override, PolicyName, Recipe, RuleChange, weight_change

_BITS = RuleChange(bits=8)
_WEIGHTS = weight_change(8)

# `activations` of the first layer: pixels have 8 bits, which the papers leave as they are.
_FIRST = Override(where="first", weights=_WEIGHTS, activations=_BITS)
_FIRST_AND_OUTPUT = Override(where="first", weights=_WEIGHTS, activations=_BITS, output=_BITS)
_LAST = Override(where="last", weights=_WEIGHTS)
_LAST_AND_INPUT = Override(where="last", weights=_WEIGHTS, activations=_BITS)
_DEPTHWISE = Override(where=f"{OPERATOR}depthwise_conv2d", weights=_WEIGHTS)
_BEFORE_LAST = Override(where="penultimate", output=_BITS)

POLICIES: Mapping[PolicyName, tuple[Override, ...]] = {
    "none": (),
    "qdrop": (_FIRST, _LAST_AND_INPUT),
    "brecq": (_FIRST_AND_OUTPUT, _LAST, _BEFORE_LAST),
    "brecq-intended": (_FIRST_AND_OUTPUT, _LAST_AND_INPUT),
    "captq": (_FIRST_AND_OUTPUT, _LAST_AND_INPUT),
    "depthwise": (_DEPTHWISE, _FIRST_AND_OUTPUT, _LAST_AND_INPUT),
}


def policy_overrides(recipe: Recipe) -> tuple[Override, ...]:
    """The overrides that the recipe's policy stands for."""
    return POLICIES[recipe.policy]
