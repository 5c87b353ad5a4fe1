"""Numbers as C text, read back by a reader of C; packed weights, unpacked by the rule that the kernel follows."""

import re

import numpy as np
import pytest

from isobit.backends.c.constants import (
    WIDTH,
    argument_names,
    array,
    braces,
    comment,
    describe_inputs,
    describe_outputs,
    float_text,
    integer_text,
    number_lines,
    pack,
    string,
    structure,
)
from isobit.backends.fixed_point.program import Weights


def values_of(text):
    return [part.strip() for part in re.search(r"\{(.*)\}", text, re.DOTALL).group(1).split(",") if part.strip()]


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "int32"])
def test_arrays_hold_every_value_of_their_type(kind):
    limits = np.iinfo(kind)
    values = np.linspace(limits.min + 1, limits.max, 300).astype(kind)
    text = array("name", values)
    assert text.startswith(f"static const {kind}_t name[300] = {{\n") and text.endswith("};")
    assert [int(value) for value in values_of(text)] == values.tolist()
    assert max(map(len, text.splitlines())) <= WIDTH


def test_floats_are_read_back_to_the_bit():
    values = np.array([0.1, 1e-38, 3.4e38, 1 / 3, 0.0], np.float32)
    read = np.array([float.fromhex(value.removesuffix("f")) for value in values_of(array("f", values))], np.float32)
    assert np.array_equal(read.view(np.uint32), values.view(np.uint32))
    assert [float_text(value) for value in (0.5, 0.75, 0.0)] == ["0x1p-1f", "0x1.8p-1f", "0x0p+0f"]


def test_floats_that_are_not_finite_are_the_macros_of_c():
    assert [float_text(value) for value in (np.inf, -np.inf, np.nan)] == ["INFINITY", "(-INFINITY)", "NAN"]


@pytest.mark.parametrize("names", [["x", "X", "x_1"], ["v", "default", "if", "values", "softmax"], ["", "a", "model"]])
def test_arguments_are_distinct_and_no_word_of_c(names):
    arguments = argument_names(names)
    assert len(set(arguments)) == len(names) and all(name.startswith("in_") for name in arguments)
    found = describe_inputs("net", names, [((1, 1, 1), False)] * len(names))
    assert len({entry["guard"] for entry in found}) == len({entry["quantize"] for entry in found}) == len(names)
    assert argument_names(["default"]) == ["codes"]


def test_wide_and_least_integers():
    assert integer_text(-(1 << 31)) == "(-2147483647 - 1)"
    assert integer_text((1 << 31) - 1) == "2147483647"
    assert integer_text(1 << 31) == "INT64_C(2147483648)"


def test_structures_name_their_members():
    assert structure("shape", "s", {"height": "1", "in": braces(2, "x")}) == (
        "static const struct shape s = {\n    .height = 1,\n    .in = {2, x},\n};"
    )


def test_lines_are_filled():
    lines = number_lines(["123456"] * 100)
    assert all(WIDTH - 10 < len(line) <= WIDTH for line in lines[:-1])


@pytest.mark.parametrize(("bits", "size", "expected"), [(2, 5, 2), (3, 8, 3), (3, 9, 4), (4, 3, 2), (5, 8, 5)])
def test_packed_weights_take_their_bits_and_no_more(bits, size, expected):
    random = np.random.default_rng(0)
    offset = random.integers(0, 1 << bits, 6).astype(np.int16)
    codes = (random.integers(0, 1 << bits, (6, 1, 1, size)) - offset[:, None, None, None]).astype(np.int8)
    packed = pack(Weights(codes, bits, offset))
    assert packed.dtype == np.uint8 and packed.shape == (6 * expected,)
    for row, own, wanted in zip(packed.reshape(6, -1), offset, codes.reshape(6, -1), strict=True):
        stream = int.from_bytes(row.tobytes(), "little")
        assert [(stream >> bits * i & (1 << bits) - 1) - own for i in range(size)] == wanted.tolist()


def test_macros_of_outputs_are_distinct_and_their_comments_end_where_they_should():
    found = describe_outputs("net", ["x", "mask"], [("x", (2, 3)), ("a b", (4,)), ("a-b", ()), ("*/", (1,))])
    guards = [entry["guard"] for entry in found]
    assert len(set(guards)) == 4 and all(guard.startswith("NET_") and guard.isidentifier() for guard in guards)
    assert "NET_X" not in guards and not any("*/" in entry["comment"] for entry in found)
    assert [(entry["offset"], entry["count"]) for entry in found] == [(0, 6), (6, 4), (10, 1), (11, 1)]
    assert describe_outputs("net", ["x"], [("logits", (5,))]) == []


@pytest.mark.parametrize("name", ["a\nb", "\r\x0b\f\x85\u2028", "*/ /* ??/", "/*/", "\\", "\x00\ud800\u202e", "ü 漢"])
def test_no_text_leaves_its_comment_or_its_line(name):
    text = comment(f"{name}: [3]")
    assert text.isprintable() and len(f"{text}|".splitlines()) == 1 and text.encode()
    assert not any(mark in text for mark in ("*/", "/*", "??/"))
    assert text == f"{name}: [3]" or not name.isprintable() or set(name) & set("*/")


def test_strings_are_the_texts_bytes_whatever_they_hold():
    name = 'conv2d_1_q "\\ ??/ %s\n\x00 ü 漢 𠀀 \x1f7'
    text = string(name)
    assert text.isascii() and text.isprintable() and not set(text[1:-1]) & set('"?')
    read = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text[1:-1])
    assert read.encode("latin-1").decode("utf-8") == name and string("t_1") == '"t_1"'
    assert string("\ud800") == r'"\134ud800"'
