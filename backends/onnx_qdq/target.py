"""What ONNX Runtime's CPU kernels run in integers, as data: one `Target` per form of the file and device profile.

Both forms run in the same kernels and differ in name only. Every entry was measured on ONNX Runtime 1.17 to 1.31: which
arrangement of quantizers an optimised session turns into integer kernels, and which it silently computes in float.
"""

from __future__ import annotations

from backends.onnx_qdq.profiles import WIDE_LIMITS
from pipeline.dialect import LAYOUT
from pipeline.target import Note, OpRule, Target, WeightLimits

NAMES = {"qdq": "onnx", "qoperator": "onnx-qoperator"}

# Add, Mul and the gate of a hard-swish become integer kernels only when every operand is quantized; a 4-bit branch
# in front of a residual sum costs 2 points on ResNet-20 where 8 bits cost nothing.
_INNER = 8

OPS = {
    "conv2d": OpRule("quantized", "own", absorbs=("relu", "hardtanh")),
    "linear": OpRule("quantized", "own", absorbs=("relu", "hardtanh")),
    "add": OpRule("quantized", "own", absorbs=("relu", "hardtanh"), inner_bits=_INNER),
    "mul": OpRule("quantized", "own", inner_bits=_INNER),
    "mean": OpRule("quantized", "own"),
    "avg_pool2d": OpRule("quantized", "own"),
    "cat": OpRule("quantized", "shared"),
    "hardsigmoid": OpRule("quantized", "fixed", fixed=(1 / 255, 0), inner_bits=_INNER),
    "sigmoid": OpRule("quantized", "fixed", fixed=(1 / 255, 0), inner_bits=_INNER),
    "leaky_relu": OpRule("quantized", "own", inner_bits=_INNER),
    "relu": OpRule("quantized", "own", inner_bits=_INNER),
    "hardtanh": OpRule("quantized", "own", inner_bits=_INNER),
    **dict.fromkeys(sorted(LAYOUT), OpRule("quantized", "as_input")),
}

_SATURATION = (
    "x86 CPUs with AVX2 but without VNNI add two 8-bit products in a saturating int16 (vpmaddubsw): with full 8-bit "
    "weights up to 80 % of one convolution's outputs were wrong; codes within +-64 are exact (onnxruntime#6004); "
    "--device-profile vnni or arm64 uses all codes"
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
        weights=weights,
        gates=(
            "no code that an integer kernel computes differs from the target's integer arithmetic",
            "right behind a float operator no code is off by more than float rounding explains",
        ),
        notes=(_NO_SPEED_FROM_LOW_ACTIVATIONS,),
    )


TARGETS = targets("qdq")
