"""Operators written in parts are joined again: what files and people spell out, said with one operator of ATen.

    scalars      maximum(x, 0), pow(x, 0.5), 1 / x, min(max(x, 0), 6)    -> relu, sqrt, reciprocal, hardtanh
    functions    x * clamp(x + 3, 0, 6) / 6, x * sigmoid(x), ...         -> hardswish, silu, gelu, mish, ...
    norms        (x - mean) / sqrt(mean((x - mean)^2) + eps) * g + b     -> layer_norm, group_norm
    products     x @ W + b, addmm                                        -> linear
    expectations conv2d(softmax(x), w of one output)                     -> sum(softmax(x) * w)
    reductions   exp(x - max) / sum(exp(x - max)), mean of a flat map    -> softmax, mean
    resizes      reshape, expand, reshape                                -> upsample_nearest2d
    transposes   permute, elementwise operators, its inverse             -> the operators

Each is the same function in real numbers; constants are compared to float32 rounding. Where a value inside is read
elsewhere, the parts stay.
"""

from __future__ import annotations

from torch import fx

from isobit.passes.recognise.expectations import expectation
from isobit.passes.recognise.functions import function
from isobit.passes.recognise.norms import affine_norm, group_norm, norm
from isobit.passes.recognise.products import linear
from isobit.passes.recognise.reductions import average, softmax
from isobit.passes.recognise.resizes import nearest
from isobit.passes.recognise.rewriting import rewritten
from isobit.passes.recognise.scalars import scalar_form
from isobit.passes.recognise.transposes import cancel_transposes, merged_transpose

REWRITES = (
    scalar_form,       # first: one form for each operation with a number
    linear,            # before norms: nothing of theirs stands between a product and its bias
    norm,              # before functions: their variance holds squares and roots that are functions as well
    group_norm,        # after norms without factors, which stand between two reshapes
    affine_norm,       # factors and shifts after a norm are its own
    softmax,
    expectation,       # after linear and softmax, which it reads
    average,
    nearest,
    function,
    merged_transpose,  # before transposes move
)
# Every round makes the graph smaller; nothing needs more rounds than operators nest.
ROUNDS = 10


def recognise(graph: fx.GraphModule) -> bool:
    """Rewrite in place until nothing is found; True where anything changed."""
    for count in range(ROUNDS):
        if not any([*(rewritten(graph, rewrite) for rewrite in REWRITES), cancel_transposes(graph)]):
            return count > 0
    return True
