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
    apart = said(type(made)) if made is not None and made.group != kind.group else None
    assert PROCESSORS[flavour] == said(kind, apart)


def said(kind, by_bytes=None):
    own = (kind.widths, kind.taps) if issubclass(kind, X86) else ((), "int8")
    transforms = kind.winograd or kind.transforms_bytes
    channels = 0 if issubclass(kind, X86) else CHANNELS
    adds = 255 if kind.narrow else 0
    if by_bytes is None and not issubclass(kind, X86):  # bytes lie as they do otherwise
        adds = max((code for code in range(256) if kind().by_bytes(code) is not None), default=0)
    return Processor(
        kind.lanes, kind.group, kind.by_input, kind.signed_input, transforms, *own, by_bytes, channels, adds)


def test_every_instruction_set_is_known():
    assert set(PROCESSORS) == set(_SETS)
