"""A file against its reference: none that is right is refused, and whatever is wrong is told by layer and field."""

import copy

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from isobit import passes
from isobit.backends.onnx.emit import FORMS, emit_model
from isobit.backends.onnx.readback import read_back as module
from isobit.backends.onnx.readback import wanted
from isobit.backends.onnx.readback.read_back import read_back
from isobit.backends.onnx.rederive import rederive
from isobit.backends.onnx.target import TARGETS
from isobit.calib.calibrate import calibrate
from isobit.pipeline.capture.capture import capture
from isobit.pipeline.graph.quantized_tensors import quantizers
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.samples.network_inputs import part
from tests.examples.ends import ENDS, FLOAT_ENDS, frozen_end
from tests.examples.onnx_cases import FLOAT_MIDDLES, FOLDED_MIDDLES, MIDDLES, frozen, frozen_with_levels
from tests.examples.tiny import frozen_levels

INTEGER = {form: form == "qoperator" for form in FORMS}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


def found(reference, path, form="qdq"):
    emit_model(reference, path, form)
    return read_back(reference, path, INTEGER[form])


def is_read_whole(reference, path):
    for form in FORMS:
        read = found(reference, path, form)
        assert (form, read.reason, read.differences, read.unread) == (form, "", (), ())
        model = onnx.load(path)
        assert read.constants == len(model.graph.initializer) and read.operators >= len(model.graph.node)


@pytest.mark.parametrize("name", [*MIDDLES, *FLOAT_MIDDLES, *FOLDED_MIDDLES])
def test_every_operator_is_read_back_whole(name, path):
    is_read_whole(frozen(name, 8, 4)[0], path)


@pytest.mark.parametrize(("weights", "edits"), [
    (2, ()), (3, ()), (4, ("weights.symmetric=false",)), (3, ("weights.symmetric=false",)),
    (8, ("weights.granularity=per_tensor",)), (4, ("activations.symmetric=true",)),
])
def test_every_way_of_storing_weights_is_read_back(weights, edits, path):
    is_read_whole(frozen("add", weights, 8, *edits)[0], path)


@pytest.mark.parametrize("name", ["residual", "squeeze_excite", "cat", "scaled", "silu"])
def test_codebooks_and_nested_grids_are_read_back(name, path):
    generic = TARGETS["generic"]
    is_read_whole((frozen_levels(generic) if name == "residual" else frozen_with_levels(name, "generic"))[0], path)


@pytest.mark.parametrize("name", [*ENDS, *FLOAT_ENDS])
def test_ends_of_networks_are_read_back(name, path):
    is_read_whole(frozen_end(name, TARGETS["generic"])[0], path)


class Ports(nn.Module):
    """An input that nobody reads, and outputs that are called as an input's and a layer's quantizer would be."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, logits, mask):
        y = self.one(logits).relu()
        return {"logits_q": self.two(y), "relu_q": y}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("outputs", [(), ("logits_q",)])
def test_ports_keep_their_names_and_need_not_be_read(outputs, form, path):
    torch.manual_seed(0)
    inputs = (torch.randn(8, 4), torch.randn(8, 3))
    captured = capture(Ports().eval(), part(inputs, slice(1)), outputs=outputs)
    quantized = passes.quantize(captured, load_recipe("minmax_w8a8"), TARGETS["generic"])
    read = found(passes.legalize(calibrate(quantized, inputs))[0], path, form)
    assert (read.reason, read.differences, read.unread) == ("", (), ())
    graph = onnx.load(path).graph
    assert [each.name for each in graph.input] == ["logits", "mask"]
    assert [each.name for each in graph.output] == [*(outputs or ("logits_q", "relu_q"))]
    assert rederive(path)


# --- a reference that is not the file's ------------------------------------------------------------------------------


def weight_code(known):
    known["conv2d_1_w"].codes.view(-1)[3] += 1 if known["conv2d_1_w"].codes.view(-1)[3] < 0 else -1


def weight_scale(known):
    scales = known["conv2d_1_w"].scale
    scales[2] = float(np.nextafter(scales[2].numpy(), np.float32(1)))


def zero_point(known):
    known["conv2d_1_q"].zero_point.add_(1)


def scale(known):
    known["relu_q"].scale.copy_(known["relu_q"].scale * 1.01)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("edit", "tensor", "layer", "words"), [
    (weight_code, "conv2d_1_q", "second", "Conv.W dequantize.input is "),
    (weight_scale, "conv2d_1_q", "second", "Conv.W dequantize.scale is "),
    (zero_point, "conv2d_1_q", "second", "conv2d_1_q quantize.zero_point is "),
    (scale, "relu_q", "first", "relu_q quantize.scale is "),
])
def test_each_number_is_told_where_it_stands(edit, tensor, layer, words, form, path):
    reference, _ = frozen("cat_signed" if tensor == "conv2d_1_q" else "relu", 8, 8)
    if tensor not in quantizers(reference.graph):
        pytest.fail(f"no {tensor}: {[*quantizers(reference.graph)]}")
    wrong = copy.deepcopy(reference)
    edit(quantizers(wrong.graph))
    emit_model(wrong, path, form)
    differences = read_back(reference, path, INTEGER[form]).differences
    assert any(each.layer == layer and words in f"{each.field} is " for each in differences), differences
    assert not read_back(wrong, path, INTEGER[form]).differences


# --- what a session ignores ------------------------------------------------------------------------------------------


def edited(path, edit):
    model = onnx.load(path)
    edit(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def dequantized(model, rank):
    """The first DequantizeLinear of an initializer of a rank, wherever it stands, and the initializers."""
    tensors = {each.name: each for each in model.graph.initializer}
    nodes = [each for each in model.graph.node if each.op_type == "DequantizeLinear"]
    return next(each for each in nodes if len(tensors[each.input[2]].dims) == rank), tensors


def axis_gone(model):
    node, _ = dequantized(model, 1)
    node.ClearField("attribute")


def bias_zero_point(model):
    tensors = {each.name: each for each in model.graph.initializer}
    node = next(each for each in model.graph.node if each.op_type == "DequantizeLinear"
                and tensors[each.input[2]].data_type == onnx.TensorProto.INT32)
    array = numpy_helper.to_array(tensors[node.input[2]]) + 1
    model.graph.initializer.append(numpy_helper.from_array(array.astype(np.int32), "wrong"))
    node.input[2] = "wrong"


def bias_scale(model):
    node = next(each for each in model.graph.node if each.op_type == "Mul")
    tensors = {each.name: each for each in model.graph.initializer}
    array = numpy_helper.to_array(tensors[node.input[0]]) * np.float32(1.01)
    model.graph.initializer.append(numpy_helper.from_array(array, "wrong"))
    node.input[0] = "wrong"


@pytest.mark.parametrize("edit", [axis_gone, bias_zero_point, bias_scale])
def test_fields_that_sessions_ignore_are_read(edit, path):
    reference, _ = frozen("linear_output", 8, 8)
    assert not found(reference, path).differences
    edited(path, edit)
    assert read_back(reference, path, False).differences


def test_facts_for_programs_are_held_to_what_they_must_be(path):
    reference, _ = frozen("relu")
    emit_model(reference, path)
    edited(path, lambda model: model.metadata_props.add(key="classes", value="[1]"))
    assert not read_back(reference, path, False, {"classes": "[1]"}).differences
    assert [each.field for each in read_back(reference, path, False, {"classes": "[2]"}).differences] == [
        "metadata classes"]
    assert read_back(reference, path, False).differences


def test_the_other_form_is_not_this_one(path):
    reference, _ = frozen("relu")
    emit_model(reference, path, "qoperator")
    texts = [each.text for each in read_back(reference, path, False).differences]
    assert "opset of com.microsoft is 1, must be nothing" in texts
    assert any("Conv.kernel is integer, must be nothing" in text for text in texts)


def test_what_is_no_model_is_told(path):
    path.write_bytes(b"\x00\xff{[" * 40)
    read = read_back(frozen("relu")[0], path, False)
    assert [each.text for each in read.differences] == ["the file is no ONNX model (DecodeError), must be one"]


def test_a_reference_without_description_refuses_nothing_and_says_so(path, monkeypatch):
    reference, _ = frozen("relu")
    emit_model(reference, path)

    monkeypatch.setattr(wanted, "form_of", lambda *_: None)
    read = read_back(reference, path, False)
    assert not read.rules and read.text.startswith("not read back: the reference holds what has no description (no ")


@pytest.mark.parametrize("part", ["Wanted", "Reader"])
def test_a_mistake_of_the_reader_does_not_switch_the_gate_off(part, path, monkeypatch):
    reference, _ = frozen("relu")
    emit_model(reference, path)

    def mistake(*_):
        raise TypeError("a mistake in this reader")

    monkeypatch.setattr(module, part, mistake)
    with pytest.raises(TypeError, match="a mistake in this reader"):
        read_back(reference, path, False)
