"""ONNX Runtime's quantizer: integer kernels come out, per channel and unsigned at its best, and it is timed."""

import numpy as np
import onnx
import pytest

from isobit.backends.onnx.peers import static
from isobit.backends.onnx.peers.static import quantize_best, quantize_plainly, timed_static
from isobit.bench.peers import quiet
from tests.examples.float_files import write_float

pytestmark = pytest.mark.onnxruntime


@pytest.fixture
def source(tmp_path):
    return write_float(tmp_path / "float.onnx")


def samples():
    noise = np.random.default_rng(0)
    return [{"image": noise.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(2)]


def weights(path):
    """Codes of the convolution's weights, and how many scales they have."""
    arrays = {array.name: onnx.numpy_helper.to_array(array) for array in onnx.load(path).graph.initializer}
    (scale,) = (value for name, value in arrays.items() if name.startswith("w") and name.endswith("_scale"))
    (codes,) = (value for name, value in arrays.items() if name.startswith("w") and value.ndim == 4)
    return codes, scale.size


def test_as_it_comes_and_at_its_best(source, tmp_path):
    with quiet():
        plain = quantize_plainly(source, tmp_path / "plain.onnx", samples())
        best = quantize_best(source, tmp_path / "best.onnx", samples())
        reduced = quantize_best(source, tmp_path / "reduced.onnx", samples(), reduce=True)
    assert weights(plain)[1] == 1 and weights(best)[1] == 4
    assert np.abs(weights(best)[0].astype(int)).max() == 127 and np.abs(weights(reduced)[0].astype(int)).max() == 64


@pytest.mark.parametrize("saturates", [True, False])
def test_it_is_timed_with_fewer_bits_where_products_saturate(source, tmp_path, monkeypatch, saturates):
    monkeypatch.setattr(static, "why_inexact", lambda *machine: "saturates" if saturates else "")
    with quiet():
        found = timed_static(source, tmp_path, 2, 1)
    assert found.runtime.startswith("onnxruntime ") and ("reduce_range" in found.note) is saturates
    assert np.abs(weights(tmp_path / "static.onnx")[0].astype(int)).max() == (64 if saturates else 127)
    found.run()
