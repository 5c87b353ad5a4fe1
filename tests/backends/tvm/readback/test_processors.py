"""What the reader knows of instruction sets is what kernels are made with."""

import pytest

from isobit.backends.tvm.instructions import _SETS
from isobit.backends.tvm.instructions.x86 import X86
from isobit.backends.tvm.kernels.layers.channelwise import CHANNELS
from isobit.backends.tvm.readback.processors import PROCESSORS, Processor
from tests.backends.tvm.harness import needs_tvm


@pytest.mark.parametrize("flavour", _SETS)
def test_it_is_what_kernels_are_made_with(flavour):
    needs_tvm()
    kind = _SETS[flavour]
    made = kind().by_bytes(15)
    apart = None if made is None or said(type(made)) == said(kind) else said(type(made))
    assert PROCESSORS[flavour] == said(kind, apart)


def said(kind, by_bytes=None):
    own = (kind.widths, kind.taps) if issubclass(kind, X86) else ((), "int8")
    transforms = kind.winograd or kind.transforms_bytes
    channels = 0 if issubclass(kind, X86) else CHANNELS
    return Processor(kind.lanes, kind.group, kind.by_input, kind.signed_input, transforms, *own, by_bytes, channels)


def test_every_instruction_set_is_known():
    assert set(PROCESSORS) == set(_SETS)
