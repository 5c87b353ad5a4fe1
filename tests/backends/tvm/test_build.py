"""Shared libraries: the same bytes each time, small, and without a word of the machine that built them."""

import pytest

from isobit.backends.tvm.build import module_builder, write_module
from isobit.backends.tvm.profiles import PROFILES
from tests.backends.tvm import harness
from tests.backends.tvm.conftest import needs
from tests.examples.tvm_networks import resnet

pytestmark = pytest.mark.tvm
# The road's limits for ResNet-20: 271 kB of weights at 8 bits; about 140 kB at 4, the last layer having 8.
# A tenth of it is the function `pieces`, by which the proof and the device run every layer by itself.
LIMITS = {8: 420_000, 4: 300_000}


@pytest.mark.parametrize("name", ["x86-64-v3", "aarch64-dotprod"])
def test_the_same_program_gives_the_same_bytes(name, tmp_path):
    needs(name)
    profile, modules = PROFILES[name], [tmp_path / "one.so", tmp_path / "other.so"]
    for path in modules:
        write_module(module_builder(resnet(1, (16,), 8), profile), profile, path)
    one, other = (path.read_bytes() for path in modules)
    assert one == other
    assert str(tmp_path).encode() not in one


@pytest.mark.slow
@pytest.mark.parametrize("bits", LIMITS)
def test_resnet_20_stays_small(bits, tmp_path):
    harness.needs("vnni512")
    profile, path = PROFILES["x86-64-vnni"], tmp_path / "model.so"
    write_module(module_builder(resnet(bits=(bits, 8)), profile), profile, path)
    assert path.stat().st_size <= LIMITS[bits]
