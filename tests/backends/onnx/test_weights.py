"""The operators that unpack a weight give the codes that were packed."""

import numpy as np
import pytest
import torch

from isobit.backends.onnx.graph_writer import GraphWriter
from isobit.backends.onnx.pack import pack_weight
from isobit.backends.onnx.weights import weight_codes
from isobit.pipeline.quant.grid import Grid, QParams, QuantSpec, RangeSearch
from isobit.pipeline.quant.quantizer import Quantizer

pytestmark = pytest.mark.onnxruntime


@pytest.mark.parametrize("shape", [(3, 5, 3, 3), (7, 11)], ids=str)
@pytest.mark.parametrize(
    ("bits", "symmetric"), [(2, True), (2, False), (3, True), (3, False), (4, True), (4, False), (5, False), (8, True)]
)
def test_what_a_session_unpacks_is_what_was_packed(bits, symmetric, shape):
    import onnx_ir as ir
    from onnx.reference import ReferenceEvaluator

    spec = QuantSpec(Grid(bits, signed=symmetric), symmetric, 0, RangeSearch("minmax"))
    quantizer = Quantizer(spec)
    zero = torch.zeros(shape[0], dtype=torch.int32) if symmetric else torch.arange(shape[0], dtype=torch.int32) % 4
    quantizer.set_params(QParams(torch.full((shape[0],), 0.1), zero))
    generator = torch.Generator().manual_seed(bits)
    codes = torch.randint(spec.grid.qmin, spec.grid.qmax + 1, shape, generator=generator)
    quantizer.harden(codes)
    writer = GraphWriter()
    source = writer.input("input", [1])
    written = weight_codes(writer, pack_weight(quantizer))
    result = writer.call("Cast", [written], {"to": int(ir.DataType.FLOAT)})
    model = ir.to_proto(writer.model([source], [(result, shape, torch.float32)], ("test", "1")))
    (got,) = ReferenceEvaluator(model).run(None, {"input": np.zeros((1, 1), np.float32)})
    expected = codes - zero.reshape(-1, *[1] * (len(shape) - 1))
    assert np.array_equal(got.reshape(shape), expected.numpy())
