"""Constants of layers against those that kernels are made with, by every instruction set."""

import numpy as np
import pytest

from isobit.backends.readback.description import Terms
from isobit.backends.tvm.kernels.layers.weights import pack
from isobit.backends.tvm.readback.layers import LayerConstants, _shared, conv_constants, conv_form, has_own_taps
from isobit.backends.tvm.readback.places import places_of
from isobit.backends.tvm.readback.processors import PROCESSORS
from tests.backends.fixed_point import oracle
from tests.backends.tvm.harness import needs_tvm
from tests.examples.programs import Builder


def layers(bits):
    """One of each: dense, grouped in blocks, of one plane, one filter a channel, with a residual, logits."""
    net = Builder((6, 6, 3), bits=bits, signed=False)
    wide = net.conv(0, 72)
    grouped = net.conv(wide, 72, groups=6, low=9)
    apart = net.conv(grouped, 72, groups=72, stride=(2, 2), bits=8)
    added = net.conv(wide, 72, (1, 1), padding=(0, 0, 0, 0), residual=grouped)
    plane = net.move(added, (6, 6, 1), [3])
    net.conv(plane, 5, (3, 2), padding=(1, 0, 1, 1))
    return net.build(net.conv(net.global_average(apart), 10, (1, 1), padding=(0, 0, 0, 0), logits=True))


@pytest.mark.parametrize(("flavour", "bits"), [
    ("vnni512", 8), ("vnni512", 3), ("vnni256", 4), ("avx2", 8), ("avx2", 4), ("sdot", 8), ("usdot", 2), ("lanes", 3)])
def test_constants_are_those_of_the_kernels(flavour, bits):
    needs_tvm()
    from isobit.backends.tvm.instructions import instruction_set
    from isobit.backends.tvm.kernels.layout import plan_places
    from isobit.backends.tvm.module import step_call

    program = layers(bits)
    places, planned, e = places_of(program), plan_places(program), instruction_set(flavour)
    for step in (step for step in program.steps if hasattr(step, "weights")):
        arrays = step_call(step, program, planned, e).constants
        for wanted in conv_constants(step, program, places, PROCESSORS[flavour]):
            terms, given = Terms(), arrays[:wanted.count]
            arrays = arrays[wanted.count:]
            found, must = wanted.fields(given, terms)
            assert found == must, step.name
            for place, array in enumerate(given):
                other = array.copy()
                other[len(other) // 2] += 1
                found, must = wanted.fields([*given[:place], other, *given[place + 1:]], terms)
                assert [name for name in found if found[name] is not must[name]], (step.name, place)
        assert not arrays


def test_weights_that_are_not_there_or_of_another_length_are_told():
    program = layers(4)
    (wanted,) = conv_constants(program.steps[0], program, places_of(program), PROCESSORS["vnni512"])
    assert isinstance(wanted, LayerConstants)
    for other in (None, np.zeros(7, np.int8)):
        found, must = wanted.fields([other, None], Terms())
        assert found["weights"] is not must["weights"] and must["weights"].array.dtype == np.int8


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_weights_share_bytes_as_kernels_take_them_apart(bits):
    codes = np.random.default_rng(0).integers(0, 1 << bits, (2, 11, 8))
    assert np.array_equal(_shared(codes, bits), pack(codes.astype(np.uint8), bits).reshape(-1))


def test_one_filter_a_channel_has_kernels_of_its_own():
    program = layers(8)
    apart = next(step for step in program.steps if getattr(step, "groups", 1) == 72)
    assert all(has_own_taps(apart, each) for each in PROCESSORS.values())
    assert not has_own_taps(program.steps[0], PROCESSORS["vnni512"])


def test_machine_code_knows_the_geometry():
    forms = []
    for change in ({}, {"stride": (2, 2)}, {"padding": (0, 1, 2, 1)}, {"padding": (1, 1, 1, 0)}, {"low": 3},
                   {"bits": 8}):
        net = Builder((6, 6, 4), bits=4)
        net.conv(0, 8, **change)
        program = net.build(1)
        forms.append(conv_form(program.steps[0], program, places_of(program), PROCESSORS["lanes"]))
    assert len(set(forms)) == len(forms)


def way_of(program, flavour, made=None):
    """(fields that differ, way) of the last layer's constants, or of those that another set makes."""
    from isobit.backends.tvm.instructions import instruction_set
    from isobit.backends.tvm.kernels.layers.conv import conv_call
    from isobit.backends.tvm.kernels.layout import plan_places
    from isobit.backends.tvm.module import step_call

    step, places = program.steps[-1], plan_places(program)
    call = step_call(step, program, places, instruction_set(flavour)) if made is None else \
        conv_call(step, program, places, made())
    (wanted,) = conv_constants(step, program, places_of(program), PROCESSORS[flavour])
    found, must, way = wanted.read(list(call.constants), Terms())
    return [name for name in must if found.get(name) is not must[name]], way, call.kernel


@pytest.mark.parametrize("flavour", ["avx2", "vnni512", "vnni256", "sdot", "lanes"])
@pytest.mark.parametrize("kind", [{}, {"groups": 32}, {"stride": (2, 2)}])
def test_what_machine_code_knows_of_sums_tells_layers_apart(flavour, kind):
    needs_tvm()
    from tvm_ffi import structural_equal

    layers = [oracle.make_conv((8, 8, 32), 32, bits=4, largest=largest, high=15, **kind) for largest in (15, 31, 255)]
    read = [way_of(program, flavour) for program in layers]
    assert all(not differing for differing, _, _ in read)
    for _, way, kernel in read:
        for _, other, beside in read:
            assert structural_equal(kernel, beside) or way != other
            assert not structural_equal(kernel, beside) or way == other


def test_products_that_might_not_fit_16_bits_are_not_read_as_such():
    needs_tvm()
    from isobit.backends.tvm.instructions.avx2_bytes import Avx2Bytes

    program = oracle.make_conv((8, 8, 32), 32, (1, 1), padding=(0, 0, 0, 0))
    assert way_of(program, "avx2")[0] == []
    assert "weights" in way_of(program, "avx2", Avx2Bytes)[0]
