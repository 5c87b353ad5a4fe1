"""Modules against their reference: none that is right is refused, and whatever is damaged is told by call and field."""

import json
import shutil

import numpy as np
import pytest

from isobit.backends.fixed_point.lower import lower
from isobit.backends.fixed_point.rules import integer_target
from isobit.backends.tvm import module as tvm_module
from isobit.backends.tvm.readback import read_back as module
from isobit.backends.tvm.readback.executable import Register, read_file
from isobit.backends.tvm.readback.read_back import DESCRIPTION, MODEL
from tests.backends.tvm.conftest import needs
from tests.backends.tvm.harness import needs_tvm
from tests.backends.tvm.readback.made import read, small, written
from tests.examples.ends import frozen_end
from tests.examples.onnx_cases import frozen
from tests.examples.programs import Builder, every_step

PROFILE = "x86-64-v3"
PROGRAM = small()


def is_whole(found):
    assert (found.reason, found.differences) == ("", ()) and min(found.operators, found.constants) > 0, found.text


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    needs_tvm()
    return written(PROGRAM, PROFILE, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("profile", ["x86-64-v3", "x86-64-vnni", "aarch64"])
@pytest.mark.parametrize(("kind", "widths"), [
    ({"groups": 32}, (2, 3, 4, 5, 8)), ({}, (4, 5, 6, 7, 8)),
    ({"kernel": (1, 1), "padding": (0,) * 4}, (2, 3, 5, 7, 8)),
], ids=["depthwise", "3 x 3", "pointwise"])
def test_layers_of_one_shape_may_have_any_bits(profile, kind, widths, tmp_path):
    needs_tvm()
    net, last = Builder((6, 6, 32), bits=6, zero_points=False), 0
    for bits in (*widths, widths[0]):
        last = net.conv(last, 32, bits=bits, **kind)
    program = net.build(last)
    is_whole(read(program, profile, written(program, profile, tmp_path)))


def test_a_transformed_kernel_whose_sums_might_not_fit_is_told(monkeypatch, tmp_path):
    needs_tvm()
    net = Builder((8, 8, 1024), bits=8, zero_points=False)
    wide, narrow = net.conv(0, 32, bits=8), net.conv(0, 32, bits=6)
    program = net.build(net.conv(wide, 32, (1, 1), padding=(0,) * 4, residual=narrow))
    is_whole(read(program, PROFILE, written(program, PROFILE, tmp_path)))

    def always(step, program, places, e):
        return e if step.name in ("conv0", "conv1") else chosen(step, program, places, e)

    chosen = tvm_module.winograd_set
    monkeypatch.setattr(tvm_module, "winograd_set", always)
    assert read(program, PROFILE, written(program, PROFILE, tmp_path)).differences


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "module")


@pytest.mark.parametrize(("profile", "bits"), [
    ("x86-64-vnni", 3), ("x86-64-avxvnni", 4), ("x86-64-v3", 4), ("aarch64", 2), ("aarch64-dotprod", 8)])
def test_every_step_is_read_back_by_every_profile(profile, bits, tmp_path):
    needs(profile)
    program = every_step(bits)
    is_whole(read(program, profile, written(program, profile, tmp_path)))


@pytest.mark.parametrize(("name", "bits"), [
    ("squeeze_excite", (4, 8)), ("upsample", (8, 4)), ("cat_signed", (3, 8))])
def test_networks_are_read_back_whole(name, bits, tmp_path):
    needs_tvm()
    program = lower(frozen(name, *bits, target=integer_target("tvm", PROFILE))[0])
    is_whole(read(program, PROFILE, written(program, PROFILE, tmp_path)))


def test_of_operators_in_float_what_they_read_is_compared_and_they_are_named(tmp_path):
    needs_tvm()
    target = integer_target("tvm", PROFILE, float_operators="after_layers")
    program = lower(frozen_end("softmax", target)[0])
    found = read(program, PROFILE, written(program, PROFILE, tmp_path))
    is_whole(found)
    assert found.unread == ("cat", "softmax") and "not read back: cat, softmax" in found.text


def at(folder, function, callee, argument):
    """Place in the file of an argument of the first call of a kernel, and what stands there."""
    for each in read_file(folder / MODEL).functions[function].instructions:
        if each.callee.startswith(callee):
            return each.places[argument], each.arguments[argument]
    raise AssertionError(f"{function} calls no {callee}")


def put(folder, place, new):
    content = bytearray((folder / MODEL).read_bytes())
    content[place:place + len(new)] = new
    (folder / MODEL).write_bytes(content)


def damage_constant(folder, callee, argument, element, by=1):
    """Change an element of a constant that the first call of a kernel is given."""
    _, value = at(folder, "main", callee, argument)
    executable = read_file(folder / MODEL)
    start = next(place for each, place in zip(executable.constants, executable.places, strict=True)
                 if isinstance(each, np.ndarray) and each.tobytes() == value.tobytes())
    flat = value.reshape(-1).copy()
    flat[element] += by
    put(folder, start, flat.tobytes())


@pytest.mark.parametrize(("callee", "argument", "element", "field"), [
    ("conv3x3", 1, 5, "main, call 1 (conv0) conv3x3.weights"), ("conv3x3", 1, -1, "conv3x3.weights"),
    ("conv3x3", 2, 0, "conv3x3.bias"), ("conv3x3", 2, 15, "conv3x3.bias"), ("conv3x3", 2, 16, "conv3x3.border"),
    ("conv3x3", 2, -1, "conv3x3.offsets of weights"), ("quantize", 1, 0, "quantize.scale"),
    ("quantize", 1, 31, "quantize.zero_point"), ("global_average", 1, 17, "global_average.sum_of_zeros"),
    ("global_average", 1, -17, "global_average.offset"), ("global_average", 1, -1, "global_average.shift"),
    ("logits", 2, 16, "logits.scale"),
])
def test_one_element_of_a_constant_is_told_by_its_field(folder, callee, argument, element, field):
    damage_constant(folder, callee, argument, element)
    found = read(PROGRAM, PROFILE, folder)
    assert any(field in each.field for each in found.differences), found.text
    assert {each.field.rsplit(".", 1)[1].partition(" at")[0] for each in found.differences} == {
        field.rsplit(".", 1)[1]}


def test_layer_and_both_values_are_told(folder):
    damage_constant(folder, "conv3x3", 2, 3, by=7)
    found = read(PROGRAM, PROFILE, folder).differences
    assert len(found) == 1 and found[0].field == "main, call 1 (conv0) conv3x3.bias"  # told once for all functions
    assert found[0].layer == "layer.conv0" and found[0].found.partition(" at")[0] == str(int(found[0].expected) + 7)
    assert found[0].found.endswith("at [3]")


@pytest.mark.parametrize("function", ["main", "codes", "trace", "pieces"])
def test_an_argument_of_another_tensor_is_told_in_every_function(folder, function):
    calls = [each for each in read_file(folder / MODEL).functions[function].instructions
             if each.callee.startswith("conv3x3")]
    assert isinstance(calls[-1].arguments[1], Register)
    put(folder, calls[-1].places[1], bytes(8))
    (difference,) = read(PROGRAM, PROFILE, folder).differences
    assert difference.field.startswith(f"{function}, call") and difference.field.endswith("argument 1")
    assert difference.found == "parameter 0" and difference.expected.startswith("what call")


@pytest.mark.parametrize("function", ["main", "codes"])
def test_exchanged_arguments_are_told_in_every_function(folder, function):
    for each in read_file(folder / MODEL).functions[function].instructions:
        for one, other in zip(each.places, each.places[1:], strict=False):
            content = (folder / MODEL).read_bytes()
            words = content[one:one + 8], content[other:other + 8]
            if words[0] == words[1]:
                continue
            put(folder, one, words[1] + words[0])
            assert read(PROGRAM, PROFILE, folder).differences, (each.callee, one)
            put(folder, one, words[0] + words[1])
    is_whole(read(PROGRAM, PROFILE, folder))


def test_what_sessions_are_told_is_compared(folder):
    text = (folder / DESCRIPTION).read_text()
    for old, new, field in (('"t1"', '"t2"', "trace"), ('"float32"', '"float64"', "input"), ("0.05", "0.06", "codes"),
                            ('"kernels"', '"kernel"', "kernels"), (PROFILE, "x86-64-vnni", "profile")):
        (folder / DESCRIPTION).write_text(text.replace(old, new, 1))
        found = read(PROGRAM, PROFILE, folder).differences
        assert found and f"device.json {field}" in [each.field for each in found]
    (folder / DESCRIPTION).write_text(json.dumps({**json.loads(text), "more": 1}))
    assert [each.field for each in read(PROGRAM, PROFILE, folder).differences] == ["device.json more"]


def test_a_function_more_or_less_is_told(folder):
    content = (folder / MODEL).read_bytes()
    place = content.index(b"\x05" + bytes(7) + b"codes")
    put(folder, place + 8, b"cadet")
    assert "functions" in [each.field for each in read(PROGRAM, PROFILE, folder).differences]


def test_code_of_another_machine_is_told(folder):
    put(folder, 18, b"\xb7")
    assert [each.field for each in read(PROGRAM, PROFILE, folder).differences] == ["machine of the code"]


@pytest.mark.parametrize(("file", "content"), [
    (MODEL, b""), (MODEL, b"\x7fELF\x02\x01" + bytes(100)), (DESCRIPTION, b"{"), (DESCRIPTION, b"[]"),
    (DESCRIPTION, b"\xff\xfe")])
def test_a_file_of_any_other_content_is_a_difference(folder, file, content):
    (folder / file).write_bytes(content)
    assert "the files" in read(PROGRAM, PROFILE, folder).text


def test_a_file_that_is_missing_is_a_difference(folder):
    (folder / MODEL).unlink()
    assert "the files" in read(PROGRAM, PROFILE, folder).text


def test_what_has_no_description_is_said_and_refuses_nothing(folder, monkeypatch):
    def undescribed(*_):
        raise module.Undescribed("a step of its own")

    monkeypatch.setattr(module, "WantedModule", undescribed)
    found = read(PROGRAM, PROFILE, folder)
    assert "a step of its own" in found.reason and not found.rules and not found.differences
