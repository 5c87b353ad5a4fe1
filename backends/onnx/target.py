"""What ONNX Runtime's CPU kernels run in integers, as data: one `Target` per form of the file and device profile.

Both forms run in the same kernels and differ in name only. Every entry of `backends.rules` was measured on ONNX Runtime
1.17 to 1.31: which arrangement of quantizers an optimised session turns into integer kernels, and which it silently
computes in float. Add, Mul and the gate of a hard-swish become integer kernels only when every operand is quantized.
"""

from __future__ import annotations

from isobit.backends.onnx.arithmetic import UNARY_KERNELS
from isobit.backends.onnx.profiles import WIDE_LIMITS
from isobit.backends.rules import IN_FLOAT, INTEGER, MOVE_RULE, UNARY_RULE
from isobit.pipeline.quant.codebook import CodebookGrid
from isobit.pipeline.quant.grid import Grid
from isobit.pipeline.quant.nested import NestedGrid
from isobit.pipeline.target import Note, OpRule, Target, WeightLimits, unary_rule

NAMES = {"qdq": "onnx", "qoperator": "onnx-qoperator"}
OPS = {
    **INTEGER,
    "matmul": OpRule("quantized", "own"),
    **{name: unary_rule(name, UNARY_RULE) for name in UNARY_KERNELS},
}

_SATURATION = (
    "x86 CPUs with AVX2 but without VNNI add two 8-bit products in a saturating int16 (vpmaddubsw): with full 8-bit "
    "weights up to 80 % of one convolution's outputs were wrong; codes within +-64 are exact (onnxruntime#6004); "
    "`options.profile=vnni` or arm64 uses all codes"
)
_NO_SPEED_FROM_LOW_ACTIVATIONS = Note(
    "activations of {activations} bits run in the same 8-bit kernels: W{weights}A8 is as small and as fast as "
    "W{weights}A{activations} on ONNX Runtime, and more accurate",
    activations_below=8,
)


def targets(form: str) -> dict[str, Target]:
    """Targets of one form of the file, `qdq` or `qoperator`, by device profile, the default first."""
    return {profile: _target(NAMES[form], profile, limit) for profile, limit in WIDE_LIMITS.items()}


def _target(name: str, profile: str, wide_limit: int | None) -> Target:
    weights = WeightLimits(
        zero_points=False, wide_limit=wide_limit, wide_limit_reason=_SATURATION if wide_limit is not None else ""
    )
    return Target(
        name=name,
        profile=profile,
        ops=OPS,
        moves=MOVE_RULE,
        in_float=IN_FLOAT,
        weights=weights,
        grids=frozenset({Grid.kind, CodebookGrid.kind, NestedGrid.kind}),
        gates=(
            "no code that an integer kernel computes differs from the target's integer arithmetic",
            "right after a float operator no code is off by more than float rounding explains",
        ),
        notes=(_NO_SPEED_FROM_LOW_ACTIVATIONS,),
    )


TARGETS = targets("qdq")
