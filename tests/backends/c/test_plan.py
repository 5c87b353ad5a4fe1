"""The arena: what lives together lies apart, dead inputs are written over where that is safe, and nothing is wasted."""

import numpy as np
import pytest

from isobit.backends.c import plan
from isobit.backends.c.plan import ALIGNMENT, is_identity, plan_arena
from isobit.backends.c.steps import plain_scratch_bytes, scratch_bytes
from tests.examples import programs
from tests.examples.programs import Builder


def plan_of(program):
    return plan_arena(program, {index: (scratch_bytes(program, step), plain_scratch_bytes(step))
                                for index, step in enumerate(program.steps)})


def chain(seed):
    """Random convolutions, some with residuals over several steps."""
    random = np.random.default_rng(seed)
    net = Builder((6, 6, 4), bits=int(random.choice([4, 8])), seed=seed)
    tensors = [net.conv(0, 5)]
    for _ in range(8):
        x = int(random.choice(tensors[-3:]))
        same = [t for t in tensors if t != x and net.shape(t) == net.shape(x)]
        filters = net.shape(x)[2] if same and random.random() < 0.5 else int(random.integers(3, 30))
        fits = [t for t in same if net.shape(t)[2] == filters]
        tensors.append(net.conv(x, filters, residual=int(random.choice(fits)) if fits else None))
    return net.build(tensors[-1])


NETWORKS = {
    "every_step": programs.every_step(3), "resnet20": programs.resnet20(4), "ds_cnn": programs.ds_cnn(),
    **{f"chain{seed}": chain(seed) for seed in range(12)},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_what_lives_together_lies_apart(name):
    """Played step by step: no write may touch bytes of a tensor that is still to be read, but its own input's."""
    program = NETWORKS[name]
    found = plan_of(program)
    last = {tensor: index for index, step in enumerate(program.steps) for tensor in step.inputs}
    span = {t: range(place, place + int(np.prod(program.buffers[t].shape))) for t, place in found.offsets.items()}
    living = set()
    for index, step in enumerate(program.steps):
        written = [span[step.output]] if step.output is not None else []
        if index in found.scratch:
            scratch = range(found.scratch[index], found.scratch[index] + scratch_bytes(program, step))
            assert all(not overlap(scratch, other) for other in written)
            written.append(scratch)
        for tensor in living:
            for bytes_ in written:
                replaced = bytes_ == span[tensor] and tensor in step.inputs and last[tensor] == index
                assert replaced or not overlap(bytes_, span[tensor]), (step.name, tensor)
        living = {tensor for tensor in living if last[tensor] > index}
        if last.get(step.output, -1) > index:
            living.add(step.output)
        if index in found.scratch:  # where none is used the pointer must still be one into the arena
            assert found.scratch[index] + plain_scratch_bytes(step) <= found.plain
    assert all(bytes_.stop <= found.plain <= found.size for bytes_ in span.values())
    assert all(place % ALIGNMENT == 0 for place in [*found.offsets.values(), *found.scratch.values()])


def overlap(a, b):
    return a.start < b.stop and b.start < a.stop


@pytest.mark.parametrize("name", NETWORKS)
def test_no_plan_could_be_smaller(name):
    """True of these networks, not of all: the busiest step needs this much."""
    found = plan_of(NETWORKS[name])
    assert found.size == found.bound


@pytest.mark.parametrize("seed", [14, 16, 50, 65])
def test_exchanges_find_what_no_fixed_order_does(seed, monkeypatch):
    assert plan_of(chain(seed)).size == plan_of(chain(seed)).bound
    monkeypatch.setattr(plan, "TRIES", 0)
    assert plan_of(chain(seed)).size > plan_of(chain(seed)).bound


def test_resnet20_and_ds_cnn_fit_their_budgets():
    weights = 4 * 2 * 3 * 3 * 16  # of four channels, two bytes each, beside two maps of 16 channels
    assert plan_of(programs.resnet20(8)).size == 2 * 32 * 32 * 16 + weights
    assert plan_of(programs.resnet20(2)).size <= 49_152
    assert plan_of(programs.ds_cnn(8)).size == 2 * 25 * 5 * 64 + 4 * 2 * 64 + 64  # and a window
    assert plan_of(programs.ds_cnn(2)).size <= 32 * 1024


def test_plain_c_needs_no_room_for_weights_that_it_reads_where_they_are():
    assert plan_of(programs.resnet20(8)).plain == 2 * 32 * 32 * 16
    assert plan_of(programs.ds_cnn(8)).plain == 2 * 25 * 5 * 64
    unpacked = 4 * 3 * 3 * 16  # a byte each
    assert plan_of(programs.resnet20(4)).plain == 2 * 32 * 32 * 16 + unpacked


@pytest.mark.parametrize("seed", [0, 6])
def test_exchanges_find_what_plain_c_can_save(seed, monkeypatch):
    found = plan_of(chain(seed))
    monkeypatch.setattr(plan, "TRIES", 0)
    assert plan_of(chain(seed)).plain > found.plain


def test_the_same_program_gives_the_same_plan():
    assert plan_of(chain(3)) == plan_of(chain(3))


def test_a_residual_sum_is_written_over_the_residual_that_dies():
    net = Builder((6, 6, 4))
    a = net.conv(0, 4)
    b = net.conv(a, 4)
    c = net.conv(b, 4, residual=a)
    found = plan_of(net.build(c))
    assert found.offsets[c] == found.offsets[a] != found.offsets[b]


def test_a_tensor_that_is_read_again_is_not_written_over():
    net = Builder((6, 6, 4))
    a = net.conv(0, 4)
    b = net.lookup(a)
    c = net.sum(b, a)
    found = plan_of(net.build(c))
    assert found.offsets[b] != found.offsets[a] and found.offsets[c] in (found.offsets[a], found.offsets[b])


def test_the_input_of_a_convolution_is_not_its_residual_at_the_same_place():
    net = Builder((6, 6, 4))
    a = net.conv(0, 4)
    b = net.conv(a, 4, residual=a)
    found = plan_of(net.build(b))
    assert found.offsets[a] != found.offsets[b]


def test_a_broadcast_pixel_is_not_written_over():
    net = Builder((1, 1, 4))
    a = net.conv(0, 4)
    gate = net.global_average(a)
    product = net.product(gate, net.lookup(a))
    found = plan_of(net.build(product))
    assert found.offsets[product] in {found.offsets[gate], found.offsets[gate + 1]}  # 1 x 1 maps: no broadcast
    net = Builder((6, 6, 4))
    a = net.conv(0, 4)
    gate = net.global_average(a)
    product = net.product(gate, a)
    found = plan_of(net.build(product))
    assert found.offsets[product] == found.offsets[a] != found.offsets[gate]


def test_a_move_that_moves_nothing_takes_no_place():
    net = Builder((6, 6, 4))
    a = net.conv(0, 4)
    b = net.move(a, (6, 6, 4), range(4))
    program = net.build(net.conv(b, 4))
    assert is_identity(program.steps[1], program.buffers[a], program.buffers[b])
    found = plan_of(program)
    assert found.offsets[a] == found.offsets[b]
    flat = Builder((2, 2, 3))
    c = flat.conv(0, 3)
    d = flat.move_indexed(c, (1, 1, 12), np.arange(12))
    e = flat.move_indexed(d, (1, 1, 12), np.arange(12)[::-1])
    program = flat.build(e)
    assert is_identity(program.steps[1], program.buffers[c], program.buffers[d])
    assert not is_identity(program.steps[2], program.buffers[d], program.buffers[e])


def test_a_network_that_only_moves_its_input_needs_an_arena_all_the_same():
    net = Builder((2, 2, 3))
    assert plan_of(net.build(net.lookup(0))).size == 12


def test_the_callers_codes_are_never_written():
    net = Builder((2, 2, 3))
    a = net.sum(0, 0)
    b = net.lookup(a)
    found = plan_of(net.build(b))
    assert set(found.offsets) == {a, b} and found.offsets[a] == found.offsets[b]
