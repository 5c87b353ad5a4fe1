"""Words, numbers and definitions of the subset of C, and the errors for all else."""

import numpy as np
import pytest

from isobit.backends.c.readback.scanner import NotUnderstood, Scanner, float_of, integer, numbers


def test_comments_and_spaces_part_words_and_say_nothing():
    scanner = Scanner("a /* b */ ;\n\n c", "x.c")
    scanner.words("a;c")
    scanner.end()


@pytest.mark.parametrize("text", ["ab ;", "a ;; c", "", "a /* ;"])
def test_other_words_are_told_with_their_place(text):
    with pytest.raises(NotUnderstood, match=r"x\.c, line 2: "):
        Scanner("\n" + text, "x.c").words("a ; c")


@pytest.mark.parametrize(("text", "value"), [
    ("7", 7), ("-12", -12), ("0", 0), ("INT64_C(-4294967296)", -(1 << 32)), ("(-2147483647 - 1)", -(1 << 31))])
def test_integers_are_read(text, value):
    assert integer(text) == value


@pytest.mark.parametrize("text", ["012", "0x10", "1u", "1 + 1", "--1", "INT64_C(1 + 1)", f"INT64_C({1 << 63})", "x"])
def test_what_is_no_integer_constant_is_an_error(text):
    with pytest.raises(NotUnderstood):
        integer(text)


def test_floats_are_read_to_the_bit_and_only_float32():
    assert float_of("0x1.8p-3f") == 0.1875 and float_of("(-INFINITY)") == -np.inf and np.isnan(float_of("NAN"))
    for text in ("0.1f", "0x1.000001p0", "0x1.00000001p0f"):
        with pytest.raises(NotUnderstood):
            float_of(text)


def test_arrays_have_their_type_and_their_count():
    name, values = Scanner("static const int16_t w_1[3] = {\n  1, -2, /* c */\n 3,\n};", "x.c").array()
    assert name == "w_1" and values.dtype == np.int16 and values.tolist() == [1, -2, 3]
    for text in ("uint8_t w[1] = {256,};", "int8_t w[2] = {1,};", "double w[1] = {1,};", "int8_t w[2] = {1 2,};"):
        with pytest.raises(NotUnderstood):
            Scanner(f"static const {text}", "x.c").array()
    assert numbers("", "int32_t").size == 0


def test_initializers_are_named_or_not():
    given = Scanner("{ .a = {1, {2, x}}, .b = &y, }", "x.c").initializer()
    assert given == {"a": ["1", ["2", "x"]], "b": "&y"}
    for text in ("{.a = 1, .a = 2}", "{.a = 1, 2}", "{1 2; }"):
        with pytest.raises(NotUnderstood):
            Scanner(text, "x.c").initializer()


def test_a_line_that_goes_on_is_refused_and_lines_are_whole():
    with pytest.raises(NotUnderstood, match="goes on"):
        Scanner("a \\\n b", "x.c")
    scanner = Scanner("#endif /* x */\n#endif more\n", "x.c")
    scanner.line("#endif")
    with pytest.raises(NotUnderstood, match="line 2"):
        scanner.line("#endif")


@pytest.mark.parametrize("text", ["10", "-3", "0x1.8p-3f", "10 /* a */", "10\t/* a ; 'b' // c */ "])
def test_a_macro_is_one_number_and_at_most_a_comment(text):
    assert Scanner(f"/* x */ #define A_B {text}\n", "x.h").macro() == ("A_B", text.split()[0])


@pytest.mark.parametrize("text", [
    "10 /* a */ + 1 /* b */", "10 /* a */ /* b */", "10 + 1", "(10)", "10u", "012", "", "/* 10 */", "10 /* a\n*/",
    "10 // a", "/* a */ 10", "0x1.8p-3", "10 /*/", "B",
])
def test_a_macro_that_is_anything_else_is_an_error(text):
    with pytest.raises(NotUnderstood, match=r"x\.h, line 1"):
        Scanner(f"#define A {text}\n", "x.h").macro()


def test_nothing_stands_between_two_comments_of_a_line():
    with pytest.raises(NotUnderstood, match="line 1"):
        Scanner("#define A /* a */ const /* b */\n", "x.c").line("#define A")
