"""What the C kernels run, as data: everything in integers, on any processor with 32-bit arithmetic."""

from __future__ import annotations

from isobit.backends.c.toolchain import MACHINES
from isobit.backends.fixed_point.rules import integer_target
from isobit.pipeline.target import Note, SumLimits, Target

NAME = "c"
_PACKED = Note(
    "weights of 2, 3 and 4 bits lie packed in flash and are unpacked into the arena while a layer runs; activations of "
    "{activations} bits take a byte each, so that W{weights}A8 needs no more RAM and is more accurate",
    activations_below=8,
)
# In C an int32 that overflows on the way is undefined, even where the finished sum would fit.
_SUMS = SumLimits(of_bytes=True)
TARGETS: dict[str, Target] = {
    profile: integer_target(NAME, profile, (_PACKED,), sums=_SUMS, float_operators="after_layers")
    for profile in MACHINES
}
