"""Sessions report every quantized tensor without changing the result, and say which kernels really run."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from isobit.backends.onnx import session as session_module
from isobit.backends.onnx.emit import emit_model
from isobit.backends.onnx.model_bytes import quantized_tensors
from isobit.backends.onnx.session import LEVELS, OnnxSession, integer_ops, open_session
from isobit.backends.onnx.target import TARGETS, targets
from isobit.backends.placement import placement_table
from isobit.pipeline.errors import InputError, ParityError
from isobit.pipeline.graph.nodes import is_constant, op_name, quantizer_of
from tests.examples.onnx_cases import FLOAT_MIDDLES, MIDDLES, PRODUCT_MIDDLES, frozen

pytestmark = pytest.mark.onnxruntime


@pytest.fixture
def emitted(tmp_path):
    reference, images = frozen("add", 4, 4)
    emit_model(reference, tmp_path / "model.onnx")
    return tmp_path / "model.onnx", reference, images


def test_every_activation_quantizer_is_reported_in_execution_order(emitted):
    path, reference, images = emitted
    graph = reference.graph
    names = [n.name for n in graph.graph.nodes if quantizer_of(graph, n) is not None and not is_constant(n)]
    assert quantized_tensors(path.read_bytes()) == names
    results = OnnxSession(path).run(images)
    assert sorted(results) == sorted([*names, "logits"])
    assert all(results[name].dtype == np.uint8 and len(results[name]) == len(images) for name in names)
    assert results["logits"].dtype == np.float32


def test_without_taps_only_the_logits(emitted):
    path, _, images = emitted
    plain = open_session(path, taps=False).run(images)
    assert list(plain) == ["logits"]
    assert np.array_equal(plain["logits"], OnnxSession(path).run(images)["logits"])


def test_batches_do_not_change_the_result(emitted, monkeypatch):
    path, _, images = emitted
    whole = OnnxSession(path).run(images)
    monkeypatch.setattr(session_module, "BATCH", 5)
    parts = OnnxSession(path).run(images)
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)


def test_taps_that_change_the_logits_are_an_error(emitted):
    path, _, images = emitted
    session = OnnxSession(path)
    model = onnx.load(path)
    bias = next(t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT32
                and onnx.numpy_helper.to_array(t).any())
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 1000, bias.name))
    onnx.save(model, path)
    session._tapped = OnnxSession(path)._tapped
    with pytest.raises(ParityError, match="reading the quantized tensors"):
        session.run(images)


def test_the_deployed_level_comes_first():
    assert list(LEVELS) == ["all", "extended", "basic", "disabled"]


def test_every_operator_of_a_residual_network_is_integer(emitted):
    path, _, _ = emitted
    found = integer_ops(path)
    assert found["float"] == 0 and found["reasons"] == {}
    # three convolutions, one sum, one pool, one classifier
    assert found["integer"] == 6
    assert found["kernels"]["QLinearConv"] == 3 and found["kernels"]["QGemm"] == 1


def test_a_float_operator_is_named(tmp_path):
    reference, _ = frozen("gelu")
    emit_model(reference, tmp_path / "model.onnx")
    found = integer_ops(tmp_path / "model.onnx")
    (name, reason), = found["reasons"].items()
    assert name == "gelu_q" and "in float" in reason and found["float"] >= 1


def test_a_file_that_lost_a_quantizer_is_seen_as_float(emitted):
    """A float Clip before QuantizeLinear takes the convolution out of the integer kernels: it must be counted."""
    path, _, _ = emitted
    model = onnx.load(path)
    holder = next(f for f in [*model.functions, model.graph] if any(n.op_type == "Conv" for n in f.node))
    index, conv = next((i, n) for i, n in enumerate(holder.node) if n.op_type == "Conv")
    clipped = onnx.helper.make_node("Elu", [conv.output[0] + "_"], [conv.output[0]])
    conv.output[0] += "_"
    holder.node.insert(index + 1, clipped)
    onnx.save(model, path)
    found = integer_ops(path)
    assert found["float"] >= 2 and any("Conv" in reason for reason in found["reasons"].values())


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize("name", [*MIDDLES, *FLOAT_MIDDLES])
def test_what_runs_in_integers_is_what_the_placement_table_says(name, form, tmp_path):
    """No session fuses an integer kernel of its own where the table says float, or the other way round."""
    reference, path = frozen(name, target=targets(form)["generic"])[0], tmp_path / "model.onnx"
    emit_model(reference, path, form)
    rows = placement_table(reference.graph, reference.quantized.target)
    told = Counter(row.runs if row.runs != "layout" or row.op != "max_pool2d" else "integer"
                   for row in rows if row.op != "quantize")
    found = integer_ops(path)
    assert found["integer"] == told["integer"]
    assert (found["float"] > 0) == (told["float"] > 0) == (name in {*FLOAT_MIDDLES} - PRODUCT_MIDDLES)


def test_every_operator_of_the_table_has_a_network():
    graphs = [frozen(name)[0].graph for name in [*MIDDLES, *PRODUCT_MIDDLES]]
    assert set(TARGETS["generic"].ops) <= {op_name(node) for graph in graphs for node in graph.graph.nodes}


@pytest.mark.parametrize(("free", "expected"), [(0, InputError), (1 << 40, ValueError)])
def test_a_full_disk_of_temporary_files_is_told(emitted, monkeypatch, free, expected):
    """The runtime says that it cannot write the graph, and not why."""
    def cannot_write(*arguments):
        raise ValueError("serialization failed")

    monkeypatch.setattr(session_module, "_open", cannot_write)
    monkeypatch.setattr(session_module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    with pytest.raises(expected, match="TMPDIR" if expected is InputError else "serialization"):
        integer_ops(emitted[0])


def test_what_the_runtime_refuses_to_compute_is_told(tmp_path):
    """A global average whose scale is 10^12 times that of its input."""
    path = tmp_path / "model.onnx"
    emit_model(frozen("relu", target=targets("qoperator")["generic"])[0], path, "qoperator")
    model = onnx.load(path)
    pool = next(node for node in model.graph.node if node.op_type == "QLinearGlobalAveragePool")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1e12), "far"))
    pool.input[3] = "far"
    onnx.save(model, path)
    with pytest.raises(ParityError, match="does not compute it"):
        OnnxSession(path).run(np.zeros((1, 3, 9, 9), np.float32))
