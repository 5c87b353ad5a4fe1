"""What must stand in a file, worked out of a reference by itself."""

import numpy as np

from isobit.backends.onnx.readback.wanted import Wanted
from isobit.backends.readback.description import Constant, Port, Terms
from isobit.pipeline.graph.quantized_tensors import quantizers
from tests.examples.onnx_cases import frozen


def wanted(name, *bits, integer_operators=False):
    reference, _ = frozen(name, *bits)
    return Wanted(reference, Terms(), integer_operators, {}).network, quantizers(reference.graph)


def field(term, path):
    for name in path.split("."):
        term = term.get(name)
    return term.array if isinstance(term, Constant) else term


def test_ports_names_and_facts():
    network, known = wanted("relu")
    assert network.inputs == (Port("input", "FLOAT", (None, 3, 9, 9)),)
    assert network.outputs == (Port("logits", "FLOAT", (None, 5)),)
    activations = [name for name, quantizer in known.items() if quantizer.codes is None]
    assert [*network.tensors] == [*activations, "logits"]
    assert network.layers["relu_q"] == "first" and network.layers["logits"] == "head"
    assert network.facts == {"ir_version": 9, "producer": "isobit 1", "opset of ONNX": 19}
    assert wanted("relu", integer_operators=True)[0].facts["opset of com.microsoft"] == 1


def test_a_layers_numbers_are_the_quantizers():
    network, known = wanted("relu6", 4, 4)
    term = network.tensors["hardtanh_q"]
    grid, weight = known["hardtanh_q"], known["conv2d_1_w"]
    assert (term.kind, term.get("input").kind) == ("quantize", "Conv")
    assert field(term, "scale") == np.float32(grid.scale) and field(term, "zero_point") == int(grid.zero_point)
    assert (term.get("low"), term.get("high")) == (0, 15)
    assert np.array_equal(field(term, "input.W.input"), weight.codes.numpy())
    assert np.array_equal(field(term, "input.W.scale"), weight.scale.numpy())
    source = known["relu_q"]
    assert np.array_equal(field(term, "input.B.scale"), source.scale.numpy() * weight.scale.numpy())
    assert str(field(term, "input.X.input")) == "tensor relu_q"
    assert field(term, "input.X.scale") == np.float32(source.scale)


def test_an_activations_ends_are_codes():
    reference, _ = frozen("hardtanh", 8, 8)
    grid = quantizers(reference.graph)["hardtanh_q"]
    grid.scale.mul_(1.5)  # wider than the activation's ends, which are those of the calibrated grid else
    term = Wanted(reference, Terms(), False, {}).network.tensors["hardtanh_q"]
    steps = np.rint(np.float32([-0.11, 0.17]) / np.float32(grid.scale)) + int(grid.zero_point)
    assert [term.get("low"), term.get("high")] == steps.astype(int).tolist() and 0 < steps[0] < steps[1] < 255


def test_the_mark_is_all_that_the_second_form_changes():
    terms = Terms()
    reference, _ = frozen("squeeze_excite", 8, 4)
    plain, marked = (Wanted(reference, terms, each, {}).network for each in (False, True))
    changed = {name for name in plain.tensors if plain.tensors[name] is not marked.tensors[name]}
    assert "x_q" not in changed and "relu_q" in changed
    inner = [each.tensors["relu_q"].get("input") for each in (plain, marked)]
    assert dict(inner[1].fields) == {**dict(inner[0].fields), "kernel": "integer"}
