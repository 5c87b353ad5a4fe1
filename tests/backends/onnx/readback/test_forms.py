"""What must stand for an operator in float, against what the emitters write: equal, or named as not read."""

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from isobit.backends.onnx.emit import emit_model
from isobit.backends.onnx.emitters import EMITTERS
from isobit.backends.onnx.readback.forms import FORMS
from isobit.backends.onnx.readback.read_back import read_back
from isobit.pipeline.operators.moves import MOVES
from isobit.pipeline.stages import Reference
from isobit.pipeline.target import Target
from tests.backends.onnx.test_emitters import LAYERS, PLAIN, Apply, prepared

NOTHING = Target("none", "float", {})  # every operator runs in float
F = torch.nn.functional
MORE = {
    "celu": lambda x: F.celu(x, -0.5) + F.celu(x, 0.5),
    "flat_view": lambda x: x.flatten(1),
    "flip": lambda x: x.flip(3),
    "roll_two": lambda x: x.roll((1, 2), (1, 3)),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x[:, :4], 2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "channel_shuffle": lambda x: F.channel_shuffle(x, 3),
    "repeat": lambda x: x.repeat(1, 2, 1, 1),
    "unfold": lambda x: x.unfold(2, 3, 2),
    "uneven": lambda x: F.interpolate(x, size=(11, 5)),
    "rot90": lambda x: x.rot90(1, (2, 3)),
    "rsub_scaled": lambda x: torch.rsub(x, x.relu(), alpha=0.3),
    "mean_all": lambda x: x.mean((1, 2, 3), keepdim=True),
    "softmax_last": lambda x: x.softmax(-1),
}


def written(module, path):
    graph, _ = prepared(module)
    reference = Reference(graph, SimpleNamespace(target=NOTHING))
    emit_model(reference, path)
    return read_back(reference, path, integer_operators=False)


@pytest.mark.parametrize("name", [*PLAIN, *MORE])
def test_a_function_is_read_back_whole(name, tmp_path):
    found = written(Apply({**PLAIN, **MORE}[name]), tmp_path / "model.onnx")
    assert not found.reason and not found.differences and not found.unread
    assert found.operators > 0


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_read_back_whole(name, tmp_path):
    torch.manual_seed(1)
    found = written(LAYERS[name](), tmp_path / "model.onnx")
    assert (found.reason, found.differences, found.unread) == ("", (), ())


@pytest.mark.parametrize(("function", "unread"), [
    (lambda x: torch.cumsum(x, 1), "cumsum"), (lambda x: x.softmax(1).amax(1), "amax"),
    (lambda x: torch.clamp(x, min=x[:, :1]), "clamp"),
])
def test_what_torch_writes_is_named_and_its_edges_are_compared(function, unread, tmp_path):
    found = written(Apply(function), tmp_path / "model.onnx")
    assert not found.differences and unread in found.unread and "not read back: " in found.text


@pytest.mark.parametrize("function", [
    lambda x: x.new_ones(x.shape) * x.sin(), lambda x: torch.zeros_like(x) + x.sin(),
    lambda x: torch.broadcast_tensors(x.cumsum(1), x[:, :, :1])[0], lambda x: x.clone().copy_(x.sin()) + 1.0,
    lambda x: torch.cumsum(x.abs(), 1).view(x.sin().shape[0], -1),
])
def test_what_is_read_for_its_sizes_alone_need_not_stand_there(function, tmp_path):
    found = written(Apply(function), tmp_path / "model.onnx")
    assert not found.reason and not found.differences


def test_an_operator_that_torch_wrote_must_read_what_it_reads(tmp_path):
    graph, _ = prepared(Apply(lambda x: torch.cumsum(x, 1)))
    reference, path = Reference(graph, SimpleNamespace(target=NOTHING)), tmp_path / "model.onnx"
    emit_model(reference, path)
    model = onnx.load(path)
    (node,) = (each for each in model.graph.node if each.op_type == "CumSum")
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 6, 8, 8), np.float32), "nothing"))
    node.input[0] = "nothing"
    path.write_bytes(model.SerializeToString(deterministic=True))
    (told,) = read_back(reference, path, integer_operators=False).differences
    assert "cumsum is not computed from tensor" in told.text


def test_every_emitter_has_a_second_form():
    assert FORMS.keys() == EMITTERS.keys()
    assert {name for name, row in MOVES.items() if row.onnx is not None} <= {
        "view", "permute", "slice", "pad", "pad_with_value", "pad_reflect", "pad_replicate", "pad_circular",
        "upsample_nearest2d", "pixel_shuffle", "pixel_unshuffle"}
