"""Every operator that may stay in float: the file computes what PyTorch computes."""

from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from isobit import passes
from isobit.backends.onnx.emit import emit_model, unsupported
from isobit.backends.onnx.emitters import EMITTERS, is_written_by_torch
from isobit.backends.onnx.target import TARGETS
from isobit.pipeline.capture.capture import capture
from isobit.pipeline.graph.dialect import CANONICAL
from isobit.pipeline.graph.nodes import op_name
from isobit.pipeline.operators.unary import UNARY
from isobit.pipeline.stages import Reference
from isobit.pipeline.target import Target
from tests.examples.tiny import frozen_reference

F = nn.functional
pytestmark = pytest.mark.onnxruntime
NOTHING = Target("none", "float", {})  # every operator runs in float

PLAIN = {
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "mish": F.mish,
    "softplus": F.softplus,
    "hardtanh": lambda x: F.hardtanh(x, -0.3, 0.7),
    "clamp": lambda x: x.clamp(max=0.4),
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.07),
    "elu": lambda x: F.elu(x, 0.7),
    "selu": F.selu,
    "softmax": lambda x: F.softmax(x, 1),
    "exp_log": lambda x: torch.log(1.5 + torch.exp(x)),
    "abs_sqrt": lambda x: torch.sqrt(torch.abs(x) + 1),
    "neg": lambda x: -x,
    "reciprocal": lambda x: torch.reciprocal(x.abs() + 1),
    "add_number": lambda x: x + 1.5,
    "mul_number": lambda x: 1.5 * x,
    "sub": lambda x: x - x.relu(),
    "rsub": lambda x: 1.0 - x,
    "div": lambda x: x / 3.0,
    "add_scaled": lambda x: torch.add(x, x.relu(), alpha=0.3),
    "mean": lambda x: x.mean((2, 3), keepdim=True),
    "mean_channels": lambda x: x.mean(1, keepdim=True),
    "avg_pool": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "avg_pool_inside": lambda x: F.avg_pool2d(x, (3, 2), (2, 1), 1, count_include_pad=False),
    **{f"avg_pool_cut_off_{place}": lambda x, window=window: F.avg_pool2d(x, *window) for place, window in enumerate([
        (3, 2, 0, True), (3, 2, 1, True), (3, 2, 1, True, False), ((3, 2), 3, (1, 1), True, False), (2, 3, 1, True),
    ])},
    "max_pool": lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    "slice": lambda x: x[:, 1:5, ::2],
    "pad": lambda x: F.pad(x, (1, 2, 0, 3)),
    "pad_value": lambda x: F.pad(x, (1, 2), value=0.7),
    "pad_reflect": lambda x: F.pad(x, (1, 2, 2, 1), mode="reflect"),
    "pad_replicate": lambda x: F.pad(x, (1, 2, 2, 1), mode="replicate"),
    "permute": lambda x: x.permute(0, 2, 3, 1),
    "view": lambda x: x.view(-1, 2, 3, 8, 8),
    "cat": lambda x: torch.cat([x, x.relu()], 1),
    "matmul": lambda x: torch.matmul(x, x.transpose(2, 3)),
    "upsample": lambda x: F.interpolate(x, scale_factor=2, mode="nearest"),
}
LAYERS = {
    "conv": lambda: nn.Conv2d(6, 8, (3, 5), stride=(2, 1), padding=(1, 2), dilation=(2, 1), groups=2),
    "conv_same": lambda: nn.Conv2d(6, 8, 4, padding="same"),
    "conv_transpose": lambda: nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1, groups=2),
    "batch_norm": lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm2d(6)),
    "layer_norm": lambda: nn.LayerNorm(8),
    "layer_norm_plain": lambda: nn.LayerNorm((8, 8), elementwise_affine=False),
    "prelu": lambda: nn.PReLU(6),
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(384, 5)),
    "linear_nd": lambda: nn.Linear(8, 5),
}


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def prepared(module):
    torch.manual_seed(0)
    x = torch.randn(3, 6, 8, 8)
    captured = capture(module.eval(), x[:1])
    return passes.prepare(captured.graph), x


def check(module, path):
    graph, x = prepared(module)
    if all(op_name(node) in ("batch_norm", "") for node in graph.graph.nodes):
        pytest.fail("nothing to write")
    assert not unsupported(graph)
    emit_model(Reference(graph, SimpleNamespace(target=NOTHING)), path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    got = session.run(None, {"input": x.numpy()})[0]
    with torch.no_grad():
        expected = module(x).numpy()
    assert got.shape == expected.shape
    assert np.allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", PLAIN)
def test_function(name, tmp_path):
    check(Apply(PLAIN[name]), tmp_path / "model.onnx")


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name, tmp_path):
    torch.manual_seed(1)
    check(LAYERS[name](), tmp_path / "model.onnx")


def test_every_canonical_operator_has_an_emitter():
    assert EMITTERS.keys() | UNARY.keys() >= CANONICAL and not EMITTERS.keys() & UNARY.keys()


@pytest.mark.parametrize("function", [
    lambda x: torch.cumsum(x, 1),
    lambda x: torch.div(x, 0.3, rounding_mode="floor"), lambda x: x.long(),
    lambda x: torch.zeros(x.shape[0], 2) + x[:, 0, :2, 0],
])
def test_what_has_no_function_or_computes_with_integers_is_written_by_torch(function):
    graph, _ = prepared(Apply(lambda x: function(x).float()))
    calls = [node for node in graph.graph.nodes if op_name(node)]
    assert not unsupported(graph) and any(map(is_written_by_torch, calls))


def test_what_nobody_writes_is_refused_with_both_reasons():
    graph, _ = prepared(Apply(torch.digamma))
    assert [why.partition(", and ")[0] for _, why in unsupported(graph)] == ["there is no ONNX emitter for digamma"]
    assert "torch.onnx cannot write it" in unsupported(graph)[0][1]


@pytest.mark.parametrize(("kernel", "given", "right"), [
    (2, {"stride": 2, "padding": 1, "dilation": 2}, False), (2, {"padding": 1}, True), (3, {"padding": 1}, True),
])
def test_a_maximum_of_padding_alone_is_refused(kernel, given, right):
    """PyTorch gives -inf there, ONNX Runtime the least number. Found by seed 21122."""
    graph, _ = prepared(Apply(lambda x: F.max_pool2d(x[:, :, :1, :1], kernel, **given)))
    assert [why for _, why in unsupported(graph)] == [
        "max_pool2d with a window in its padding alone, where nothing is the largest"] * (not right)


def test_what_is_moved_with_a_value_of_its_own_is_dequantized_once(tmp_path):
    """A second DequantizeLinear would be read by nobody."""
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)

        def forward(self, x):
            return self.second(F.pad(self.first(x), (1, 2, 0, 3), value=0.7))

    reference, _ = frozen_reference(TARGETS["generic"], "minmax_w8a8", Padded().eval())
    emit_model(reference, tmp_path / "model.onnx", "qoperator")
    model = onnx.load(tmp_path / "model.onnx")
    read = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}
    assert all(set(node.output) <= read for node in model.graph.node)
