"""Loops that threads share: codes of every kernel on one, two, three and seven threads, and which layers are shared."""

import os
from itertools import pairwise

import pytest

from isobit.backends.tvm.device.device_threads import use_threads
from isobit.backends.tvm.instructions import instruction_set
from isobit.backends.tvm.kernels import threads
from isobit.backends.tvm.kernels.layout import plan_places
from isobit.backends.tvm.kernels.threads import PARTS, evenness, parts_of
from isobit.backends.tvm.module import step_call
from tests.backends.fixed_point import oracle
from tests.backends.tvm import harness

pytestmark = pytest.mark.tvm
POINT = {"kernel": (1, 1), "padding": (0, 0, 0, 0)}

# A loop of each kernel that threads share: rows, blocks, chunks, whole and in parts; rows that end with the map.
CASES = {
    "rows": oracle.make_conv((15, 9, 10), 12, stride=(2, 2), zero_points=(7, 5)),
    "rows, packed": oracle.make_conv((27, 6, 20), 24, stride=(1, 2), bits=4),
    "blocks": oracle.make_conv((5, 5, 160), 512, residual_zero=3, **POINT),
    "blocks, packed": oracle.make_conv((5, 5, 160), 512, bits=3, **POINT),
    "rows of a block": oracle.make_conv((61, 9, 144), 16, stride=(1, 2)),
    "rows of a packed block": oracle.make_conv((61, 9, 400), 16, stride=(1, 2), bits=4),
    "linear": oracle.make_conv((1, 1, 320), 200, **POINT),
    "logits": oracle.make_conv((1, 1, 320), 200, logits=True, **POINT),
    "transformed rows": oracle.make_conv((29, 9, 32), 32, residual_zero=9),
    "transformed blocks": oracle.make_conv((4, 4, 144), 144, seed=3),
    "transformed bytes": oracle.make_conv((9, 9, 48), 64, bits=4, largest=15),
    "chunks": oracle.make_conv((7, 7, 400), 400, groups=400),
    "rows of chunks": oracle.make_conv((29, 8, 40), 40, groups=40, bits=4, largest=15),
}


def kernel(program, flavour):
    return step_call(program.steps[-1], program, plan_places(program), instruction_set(flavour)).kernel.script()


@pytest.mark.parametrize("flavour", harness.NATIVE)
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_any_number_of_threads_gives_the_oracles_codes(flavour, count, monkeypatch):
    harness.needs(flavour)
    monkeypatch.setattr(threads, "LEAST_PRODUCTS", 1)
    monkeypatch.setenv("TVM_NUM_THREADS", os.environ.get("TVM_NUM_THREADS", "1"))
    assert all("T.parallel" in kernel(program, flavour) for program in CASES.values())

    def differing():
        use_threads(count)
        return harness.differing(CASES, flavour)

    assert harness.in_a_thread_of_its_own(differing) == []


@pytest.mark.parametrize("flavour", ["avx2", "vnni512"])
def test_a_small_layer_is_not_shared(flavour):
    harness.needs_tvm()
    small = oracle.make_conv((16, 16, 32), 32), oracle.make_conv((16, 16, 64), 64, groups=64)
    large = oracle.make_conv((32, 32, 64), 64), oracle.make_conv((56, 56, 96), 96, groups=96)
    assert not any("T.parallel" in kernel(program, flavour) for program in small)
    assert all("T.parallel" in kernel(program, flavour) for program in large)


@pytest.mark.parametrize("count", [1, 2, 7, 12, 13, 28, 112])
def test_parts_follow_one_another_and_differ_by_one_at_most(count):
    parts = parts_of(count)
    ends = [part * count // parts for part in range(parts + 1)]
    sizes = [end - start for start, end in pairwise(ends)]
    assert (ends[0], ends[-1]) == (0, count) and parts <= PARTS
    assert max(sizes) - min(sizes) <= 1 and min(sizes) >= 1


def test_what_two_three_and_four_threads_share_evenly():
    assert evenness(12) == evenness(112) == 1
    assert evenness(1) == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 3)
    assert evenness(7) == pytest.approx((7 / 8 + 7 / 9 + 7 / 8) / 3)
