"""Two descriptions: what differs is told by layer and field, and only that."""

import numpy as np
import pytest

from isobit.backends.readback.compare import Comparison
from isobit.backends.readback.description import Float32, Network, Port, Terms

PORTS = ((Port("input", "FLOAT", (None, 3)),), (Port("logits", "FLOAT", (None, 5)),))


def network(terms, value, **changes):
    told = {"inputs": PORTS[0], "outputs": PORTS[1], "tensors": {"a_q": value}, "facts": {"opset": 19},
            "layers": {"a_q": "layer1.conv"}}
    return Network(**{**told, **changes})


def scaled(terms, alpha=0.5, weight=(1, 2, 3), source="x", kind="LeakyRelu", low=0):
    inner = terms.operator(kind, X=terms.edge(source), W=terms.constant(weight, np.int8), alpha=Float32.of(alpha))
    return terms.operator("quantize", input=inner, low=low)


def test_equal_descriptions_do_not_differ():
    terms = Terms()
    assert not Comparison(network(terms, scaled(terms)), network(terms, scaled(terms))).differences


@pytest.mark.parametrize(("change", "words"), [
    ({"alpha": 0.25}, "layer1.conv: a_q quantize.input LeakyRelu.alpha is 0.25"),
    ({"weight": (1, 2, 4)}, "layer1.conv: a_q quantize.input LeakyRelu.W is 4 at [2], must be 3"),
    ({"weight": (9, 2, 4)}, "LeakyRelu.W is 9 at [0] and 1 more, must be 1"),
    ({"weight": (1, 2)}, "LeakyRelu.W is int8 [2], must be int8 [3]"),
    ({"source": "y"}, "LeakyRelu.X is tensor y, must be tensor x"),
    ({"kind": "Relu"}, "a_q quantize.input is Relu, must be LeakyRelu"),
    ({"low": 3}, "a_q quantize.low is 3, must be 0"),
])
def test_each_field_is_told_with_its_layer(change, words):
    terms = Terms()
    found = Comparison(network(terms, scaled(terms, **change)), network(terms, scaled(terms))).differences
    assert len(found) == 1 and words in found[0].text


def test_ports_facts_and_tensors_are_compared_both_ways():
    terms, value = Terms(), scaled(Terms())
    other = network(terms, value, outputs=(Port("scores", "FLOAT", (None, 5)), PORTS[1][0]),
                    facts={"opset": 18, "a": 1}, tensors={"a_q": value, "b_q": value})
    texts = [each.text for each in Comparison(other, network(terms, value)).differences]
    assert texts == [
        "opset is 18, must be 19", "a is 1, must be nothing", "name of output 0 is scores, must be logits",
        "output 1 is logits, must be nothing", "b_q: b_q is quantize, must be nothing",
    ]


def test_of_an_operator_that_is_not_described_only_what_it_reads_is_compared():
    terms = Terms()
    x, y = (terms.operator("dequantize", input=terms.edge(name)) for name in "xy")

    def wanted(inputs):
        return network(terms, terms.operator("quantize", input=terms.unread("lstm", inputs, "lstm")))

    def found(*inputs):
        parts = {f"part_{place}": each for place, each in enumerate(inputs)}
        return network(terms, terms.operator("quantize", input=terms.operator("LSTM", **parts, hidden=5)))

    fine = Comparison(found(x, y, terms.constant(3)), wanted((x, y, terms.constant(4))))
    assert not fine.differences and fine.unread == ("lstm",)
    wrong = Comparison(found(x, y), wanted((x,))).differences
    assert [each.text for each in wrong] == [
        "layer1.conv: a_q quantize.input lstm is computed from tensor y, must be computed from what it reads"]


def test_an_operator_that_is_not_described_reads_all_that_it_must():
    terms = Terms()
    x, y = (terms.operator("dequantize", input=terms.edge(name)) for name in "xy")
    weight = terms.operator("dequantize", input=terms.constant(3, np.int8))
    wanted = network(terms, terms.unread("lstm", (x, y, weight), "lstm"))
    told = "layer1.conv: a_q lstm is not computed from dequantize of tensor {}, must be computed from all it reads"
    one = terms.operator("LSTM", X=x, W=terms.constant(5))
    assert [each.text for each in Comparison(network(terms, one), wanted).differences] == [told.format("y")]
    zero = Comparison(network(terms, terms.constant(0)), wanted)
    assert [each.text for each in zero.differences] == [told.format("x"), told.format("y")]
    assert zero.unread == ("lstm",)


def test_what_only_its_sizes_are_read_of_may_stand_there_and_need_not():
    terms = Terms()
    x, y = (terms.operator("dequantize", input=terms.edge(name)) for name in "xy")
    wanted = network(terms, terms.unread("view", (x,), "view", (y,)))
    for parts in ({"X": x}, {"X": x, "shape": terms.operator("Shape", data=y)}):
        assert not Comparison(network(terms, terms.operator("Reshape", **parts)), wanted).differences
    (told,) = Comparison(network(terms, terms.operator("Reshape", X=y)), wanted).differences
    assert "a_q view is not computed from dequantize of tensor x" in told.text


def test_what_stands_between_two_that_are_not_described_is_named_too():
    terms = Terms()
    first = terms.unread("gru", (terms.edge("x"),), "gru")
    second = terms.unread("lstm", (terms.operator("Relu", X=first),), "lstm")
    got = terms.operator("LSTM", X=terms.operator("Relu", X=terms.operator("GRU", X=terms.edge("x"))))
    compared = Comparison(network(terms, got), network(terms, second))
    assert not compared.differences and compared.unread == ("Relu", "gru", "lstm")
