"""Instruction sets by name: one file each, and what they share."""

from __future__ import annotations

from functools import cache

from isobit.backends.tvm.instructions.avx2 import Avx2
from isobit.backends.tvm.instructions.base import InstructionSet
from isobit.backends.tvm.instructions.dotprod import Dotprod
from isobit.backends.tvm.instructions.i8mm import I8mm
from isobit.backends.tvm.instructions.neon import Neon
from isobit.backends.tvm.instructions.vnni import AvxVnni, Vnni

_SETS: dict[str, type[InstructionSet]] = {kind.flavour: kind for kind in (Vnni, AvxVnni, Avx2, Dotprod, I8mm, Neon)}
FLAVOURS = tuple(_SETS)


@cache
def instruction_set(flavour: str) -> InstructionSet:
    """The set of a flavour: `vnni512`, `vnni256`, `avx2`, `sdot`, `usdot`, or `lanes` for what the compiler finds."""
    return _SETS[flavour]()
