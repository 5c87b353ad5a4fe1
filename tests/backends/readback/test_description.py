"""Terms: equal ones are one object, and whatever differs makes another."""

import numpy as np

from isobit.backends.readback.description import Float32, Terms, shown


def test_equal_terms_are_one_object_and_every_bit_makes_another():
    terms = Terms()
    one = terms.constant([1, 2], np.int8)
    assert terms.constant(np.asarray([1, 2], np.int8)) is one and terms.edge("x") is terms.edge("x")
    for other in (terms.constant([1, 3], np.int8), terms.constant([1, 2], np.uint8), terms.constant([[1, 2]], np.int8)):
        assert other is not one
    assert terms.constant(0.0, np.float32) is not terms.constant(-0.0, np.float32)
    assert terms.constant(1, np.int8) is not terms.constant([1], np.int8)
    made = terms.operator("Add", a=one, b=None, axis=1)
    assert terms.operator("Add", a=one, b=None, axis=1) is made and terms.changed(made, axis=1) is made
    assert terms.changed(made, axis=2) is not made and terms.operator("Add", a=one, b=None, axis=True) is not made
    assert made.get("axis") == 1 and made.get("nothing") is None and list(made.operands) == [one]


def test_what_is_built_on_an_operator_that_is_not_described_says_so():
    terms = Terms()
    hidden = terms.unread("lstm", (terms.edge("x"),), "lstm_1")
    assert terms.operator("Relu", X=hidden).unread and not terms.operator("Relu", X=terms.edge("x")).unread
    assert terms.unread("lstm", (), "lstm_2") is not hidden


def test_floats_are_their_bits():
    tenth = np.float32(0.1)
    assert Float32.of(0.1) == Float32.of(float(tenth)) != Float32.of(float(np.nextafter(tenth, np.float32(1))))
    assert "0.1" in str(Float32.of(0.1)) and Float32.of(1e99) == Float32.of(float("inf"))


def test_a_value_in_a_message_is_short():
    assert shown(None) == "nothing" and shown((1, 2)) == "[1, 2]" and len(shown("x" * 999)) < 70
    terms = Terms()
    assert shown(terms.constant([7], np.int8)) == "int8 [1] [7]" and shown(terms.edge("relu_q")) == "tensor relu_q"
