"""What the reader knows of instruction sets is what kernels are made with."""

import pytest

from isobit.backends.tvm.instructions import _SETS
from isobit.backends.tvm.instructions.x86 import X86
from isobit.backends.tvm.readback.processors import PROCESSORS, Processor


@pytest.mark.parametrize("flavour", _SETS)
def test_it_is_what_kernels_are_made_with(flavour):
    kind = _SETS[flavour]
    own = (kind.widths, kind.taps) if issubclass(kind, X86) else ((), "int8")
    assert PROCESSORS[flavour] == Processor(
        kind.lanes, kind.group, kind.by_input, kind.signed_input, kind.winograd, *own)


def test_every_instruction_set_is_known():
    assert set(PROCESSORS) == set(_SETS)
