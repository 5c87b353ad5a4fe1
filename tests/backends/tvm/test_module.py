"""Whole programs as modules: every tensor and every logit against the oracle, kernels shared between layers."""

import numpy as np
import pytest

from isobit.backends.tvm.build import executable, module_builder
from isobit.backends.tvm.profiles import PROFILES
from tests.backends.fixed_point import oracle
from tests.backends.tvm import harness
from tests.examples.tvm_networks import resnet

pytestmark = pytest.mark.tvm


@pytest.mark.parametrize(("flavour", "bits"), [
    ("vnni512", (8, 8)), ("vnni512", (4, 4)), ("vnni256", (4, 4)), ("avx2", (2, 8)),
])
def test_functions_give_every_code_and_logit(flavour, bits):
    import tvm
    from tvm import relax
    from tvm.runtime import tensor

    harness.needs(flavour)
    program = resnet(1, (12, 24), 9, bits)
    builder = module_builder(program, harness.native(flavour))
    machine = relax.VirtualMachine(executable(builder, harness.native(flavour)), tvm.cpu())
    x = np.random.default_rng(0).normal(0, 1.5, (1, 3, 9, 9)).astype(np.float32)
    codes = np.clip(np.rint(x / np.float32(program.input.scale)) + program.input.zero_point, 0, 255).astype(np.uint8)
    codes = np.ascontiguousarray(codes.transpose(0, 2, 3, 1))
    tensors, logits = oracle.run(program, codes)
    traced = [output.numpy() for output in machine["trace"](tensor(x))]
    assert [len(np.unique(tensors[number])) > 2 for number in builder.traced] == [True] * len(tensors)
    assert all(np.array_equal(tensors[number], got) for number, got in zip(builder.traced, traced[:-1], strict=True))
    for got in (traced[-1], machine["main"](tensor(x)).numpy(), machine["codes"](tensor(codes)).numpy()):
        assert np.array_equal(got.view(np.uint32), logits.view(np.uint32))


def test_equal_layers_share_a_kernel():
    harness.needs_tvm()
    builder = module_builder(resnet(3, (16,), 8), PROFILES["x86-64-v3"])
    module = builder.build()
    kernels = [name.name_hint for name in module.get_global_vars()]
    # The stem, the first layer of a block, the second, which adds the residual, and the last, whose output needs no
    # border.
    assert sum(name.startswith("conv3x3") for name in kernels) == 4
    assert builder.kernel_counts() == {"quantize": 1, "conv3x3": 7, "global_average": 1, "logits": 1, "finish": 1}
