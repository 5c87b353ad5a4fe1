"""Capture: the graph equals the model for any batch, and what cannot be captured is refused in the user's terms."""

from __future__ import annotations

import io
import warnings

import pytest
import torch
from torch import nn

from isobit.pipeline.capture.capture import capture
from isobit.pipeline.errors import CaptureError
from isobit.pipeline.graph.nodes import tensor_shape
from tests.examples import nets


class Call(nn.Module):
    """A function of one convolution and the input as a model."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function, self.conv = function, nn.Conv2d(3, 4, 1)

    def forward(self, x):
        return self.function(self.conv, x)


def refused(function, example=None):
    model = function if isinstance(function, nn.Module) else Call(function)
    with pytest.raises(CaptureError) as error:
        capture(model, torch.zeros(1, 3, 4, 4) if example is None else example)
    return error.value


def exported(model, *, dynamic=True, shape=nets.IMAGE, dtype=torch.float32):
    shapes = ({0: torch.export.Dim("batch", min=1)},) if dynamic else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inputs = (torch.zeros(2, *shape, dtype=dtype),)
        return torch.export.export(model.eval().to(dtype), inputs, dynamic_shapes=shapes)


@pytest.mark.parametrize("name", nets.NETS)
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_graph_equals_the_model_bit_for_bit_at_any_batch(name, batch):
    model, x = nets.build(name)
    x = x[:1].repeat(batch, *[1] * (x.dim() - 1)) + torch.arange(batch).reshape(-1, *[1] * (x.dim() - 1)) / 7
    captured = capture(model, x[:1])
    assert torch.equal(nets.run(captured.graph, x.clone()), nets.run(model, x.clone()))


def test_facts_of_the_model():
    captured, _ = nets.captured_net("residual")
    assert (captured.input_shape, captured.num_classes, captured.name) == ((3, 12, 12), 5, "residual")
    names = dict(captured.graph.named_parameters())
    assert {"stem.0.weight", "blocks.1.conv2.weight", "fc.bias"} <= set(names)
    assert not any(parameter.requires_grad for parameter in names.values())


def test_example_may_be_a_batch_of_any_size():
    model, x = nets.build("perceptron")
    assert capture(model, x).input_shape == capture(model, x[:1]).input_shape == (3, 2, 2)


def test_maps_as_output():
    captured, _ = nets.captured_net("ends_in_conv")
    output = next(n for n in captured.graph.graph.nodes if n.op == "output").args[0]
    assert (captured.num_classes, tensor_shape(output)) == (5, (None, 5, 8, 8))


def test_dropout_and_batch_norm_are_captured_as_in_evaluation():
    model = nets.build("residual")[0].train()
    statistics = model.stem[1].running_mean.clone()
    captured = capture(model, torch.randn(1, *nets.IMAGE))
    x = torch.randn(4, *nets.IMAGE)
    assert torch.equal(nets.run(captured.graph, x), nets.run(captured.graph, x))
    assert torch.equal(nets.run(captured.graph, x), nets.run(model.eval(), x))
    assert torch.equal(model.stem[1].running_mean, statistics)


def test_one_tensor_in_a_container_is_the_output():
    assert capture(Call(lambda conv, x: {"out": conv(x)}), torch.zeros(1, 3, 4, 4)).num_classes == 4
    assert capture(Call(lambda conv, x: (conv(x), None, 3)), torch.zeros(1, 3, 4, 4)).num_classes == 4


def branch(conv, x):
    if x.sum() > 0:
        return conv(x)
    return x


def test_branch_on_data_names_the_line(capfd):
    error = refused(branch)
    assert "branches on the values of a tensor" in error.what
    assert f"test_capture.py:{branch.__code__.co_firstlineno + 1}: if x.sum() > 0:" in error.where
    assert "torch.where" in error.hint
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "function",
    [
        lambda conv, x: conv(x).view(2, -1),
        lambda conv, x: torch.stack([conv(row) for row in x]),
        lambda conv, x: conv(x)[:, : x.shape[0]],
    ],
)
def test_fixed_batch_is_said_without_the_tracer_s_advice(function):
    error = refused(function)
    assert "fixes the batch size" in error.what
    assert "x.shape[0]" in error.hint
    assert not [word for word in ("TORCH_LOGS", "mark_dynamic", "draft_export", "Traceback") if word in str(error)]


class TwoInputs(nn.Module):
    def forward(self, x, y):
        return x + y


def test_an_input_that_is_missing():
    error = refused(TwoInputs())
    assert "other inputs" in error.what and "'y'" in error.what
    assert "every input" in error.hint


def test_several_inputs_keep_the_names_of_forward_s_arguments():
    x, y = torch.randn(1, 3, 4, 4), torch.randn(1, 1, 1, 4)
    captured = capture(TwoInputs(), (x, y))
    assert captured.input_shapes == {"x": (3, 4, 4), "y": (1, 1, 4)}
    assert torch.equal(captured.graph(x.expand(5, 3, 4, 4), y.expand(5, 1, 1, 4)), (x + y).expand(5, 3, 4, 4))


def test_inputs_by_name_may_come_in_any_order():
    x, y = torch.randn(2, 3, 4, 4), torch.randn(2, 1, 1, 4)
    captured = capture(TwoInputs(), {"y": y[:1], "x": x[:1]})
    assert list(captured.input_shapes) == ["y", "x"]
    assert torch.equal(captured.graph(y, x), TwoInputs()(x, y))


class OfDict(nn.Module):
    def forward(self, batch):
        return batch["left"] - batch["right"]


def test_a_model_that_takes_a_dict():
    x, y = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    captured = capture(OfDict(), {"left": x[:1], "right": y[:1]})
    assert list(captured.input_shapes) == ["left", "right"]
    assert torch.equal(captured.graph(x, y), x - y)


class All(nn.Module):
    def forward(self, *inputs):
        return inputs[0] - inputs[-1]


class First(nn.Module):
    def forward(self, x, *inputs, **options):
        return x - (inputs[-1] if inputs else x)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("model", [All(), First()], ids=["all", "first"])
def test_a_model_that_takes_any_number_of_inputs(model, count):
    inputs = tuple(torch.randn(1, 3, 4) for _ in range(count))
    captured = capture(model, inputs)
    assert torch.equal(captured.graph(*inputs), inputs[0] - inputs[-1])
    named = dict(zip("abc", inputs, strict=False))
    assert torch.equal(capture(All(), named).graph(*inputs), inputs[0] - inputs[-1])


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_a_traced_model_is_refused_in_words():
    x = torch.randn(1, 3, 4)
    with pytest.raises(CaptureError, match="ScriptModule"):
        capture(torch.jit.trace(nn.ReLU(), x), (x,))


def test_outputs_keep_their_keys_and_some_can_be_left_out():
    class Nested(Call):
        def forward(self, x):
            y = self.conv(x)
            return {"boxes": [y, y.mean((2, 3))], "x": y.relu(), "noise": torch.rand_like(x), "none": None}

    model, x = Nested(None), torch.randn(3, 3, 4, 4)
    captured = capture(model, x[:1], outputs=("boxes.1", "x_"))
    assert captured.output_shapes == {"boxes.1": (None, 4), "x_": (None, 4, 4, 4)}
    assert all(map(torch.equal, captured.graph(x), (model(x)["boxes"][1], model(x)["x"])))
    with pytest.raises(CaptureError, match="no output 'x'") as error:
        capture(model, x[:1], outputs=("x",))
    assert error.value.allowed == "boxes.0, boxes.1, x_, noise" and error.value.field == "outputs"


def test_integers_are_taken_and_given():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(9, 4)

        def forward(self, words):
            return self.words(words).sum(1).argmax(1)

    model, words = Words(), torch.randint(0, 9, (5, 6))
    captured = capture(model, words[:1])
    assert captured.input_shape == (6,) and captured.output_shape == (None,) and captured.num_classes == 1
    assert torch.equal(captured.graph(words), model(words))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda conv, x: 3, "returns 0 tensors"),
        (lambda conv, x: conv(x).mean(), "shape []"),
        (lambda conv, x: conv(x).sum((0, 2, 3)), "shape [4]"),
        (lambda conv, x: conv(x).sum(0, keepdim=True), "shape [1, 4,"),
        (lambda conv, x: conv(x).mean((2, 3)).t(), "shape [4, N]"),
        (lambda conv, x: {"a": conv(x), "b": conv(x) > 0}, "output 'b' of the model is a tensor of shape [N, 4, 4, 4]"),
        (lambda conv, x: (conv(x), conv.bias), "output 'output_1' depends on no input"),
    ],
)
def test_outputs_that_are_not_logits(function, words):
    assert words in refused(function).what


def test_model_that_does_not_run_on_the_input():
    error = refused(lambda conv, x: conv(x[:, :2]))
    assert "shape [3, 4, 4]" in error.what and "2 channels" in error.what
    assert "test_capture.py" in error.where
    assert len(str(error).splitlines()) <= 4


def test_exported_program_through_a_file():
    model, x = nets.build("residual")
    file = io.BytesIO()
    torch.export.save(exported(model), file)
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.load(file)
    captured = capture(program, x[:1])
    direct = capture(model, x[:1])
    assert torch.equal(nets.run(captured.graph, x), nets.run(model, x))
    assert nets.snapshot(captured.graph) == nets.snapshot(direct.graph)


def test_exported_program_with_a_fixed_batch():
    error = refused_program(exported(nets.build("residual")[0], dynamic=False))
    assert "fixed batch of 2" in error.what
    assert "dynamic_shapes" in error.hint


def test_exported_program_of_another_size():
    error = refused_program(exported(nets.build("residual")[0], shape=(3, 16, 16)))
    assert "[N, 3, 16, 16]" not in error.what and "[3, 16, 16]" in error.what and "[3, 12, 12]" in error.what


def test_exported_program_in_another_type():
    assert "float64" in refused_program(exported(nets.build("residual")[0], dtype=torch.float64)).what


def test_exported_program_with_two_inputs():
    program = torch.export.export(TwoInputs(), (torch.zeros(2, 3), torch.zeros(2, 3)))
    assert "takes 2 inputs" in refused_program(program).what


def refused_program(program):
    with pytest.raises(CaptureError) as error:
        capture(program, torch.zeros(1, *nets.IMAGE))
    return error.value
