"""Where quantizers stand around each operator on targets that compute in integers: one table.

A target takes `INTEGER` and states where it differs (`with_changes`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from isobit.pipeline.operators.unary import UNARY
from isobit.pipeline.target import OpRule

# What runtimes fuse after a kernel: the ends of its output's codes.
FUSED = tuple(name for name, row in UNARY.items() if row.fused == "clamp")
# What is computed in float with the float operator before it, so that no grid stands between the two.
IN_FLOAT = (*FUSED, *(name for name, row in UNARY.items() if row.fused == "float"))
# Bits of a gate, and of a branch of a residual sum: kernels read codes of every operand, and papers leave that tensor
# in float. At 4 bits it costs 2 points on ResNet-20, at 8 nothing.
INNER_BITS = 8

# Operators of several elements: sums, averages, joined tensors.
COMPUTED: Mapping[str, OpRule] = {
    "conv2d": OpRule("quantized", "own", absorbs=FUSED),
    "linear": OpRule("quantized", "own", absorbs=FUSED),
    "add": OpRule("quantized", "own", absorbs=FUSED, inner_bits=INNER_BITS),
    "mul": OpRule("quantized", "own", inner_bits=INNER_BITS),
    "mean": OpRule("quantized", "own"),
    "avg_pool2d": OpRule("quantized", "own"),
    "cat": OpRule("quantized", "shared"),
}
# Operators of one tensor. Right after a layer its sum becomes a code of 8 bits first.
UNARY_RULE = OpRule("quantized", "own", inner_bits=INNER_BITS)
# Operators that only move codes, and those that move them beside a number that may be off their grid.
MOVE_RULE = OpRule("quantized", "as_input")
FILL_RULE = OpRule("quantized", "own")

INTEGER: Mapping[str, OpRule] = {**COMPUTED, "max_pool2d": MOVE_RULE}


def with_changes(ops: Mapping[str, OpRule], changes: Mapping[str, Mapping[str, Any]]) -> dict[str, OpRule]:
    """The table `ops` with some fields of some rules changed: operator -> field of `OpRule` -> value.

    Raises:
        KeyError: an operator that `ops` does not have.
    """
    return {**ops, **{name: replace(ops[name], **fields) for name, fields in changes.items()}}
