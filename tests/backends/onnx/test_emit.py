"""Operator x bits x form: what a session computes is the target's integer arithmetic, and the comparison can fail."""

import copy

import numpy as np
import onnx
import pytest
import torch

from isobit.backends.onnx.arithmetic import IntegerArithmetic
from isobit.backends.onnx.emit import FORMS, emit_model, unsupported
from isobit.backends.onnx.session import OnnxSession, integer_ops, open_session
from isobit.backends.onnx.target import TARGETS, targets
from isobit.pipeline.errors import TargetError
from isobit.pipeline.graph.nodes import bias_quantizer_of, is_constant, quantizer_of
from isobit.pipeline.graph.quantized_tensors import quantizers
from isobit.pipeline.proof.parity import LOGITS
from tests.examples.ends import ENDS, FLOAT_ENDS, frozen_end
from tests.examples.onnx_cases import MIDDLES, frozen, frozen_with_levels
from tests.examples.processor import EVERY_X86, needs_vnni
from tests.examples.tiny import frozen_levels, multibit_recipe

CASES = [(8, 8, False), (8, 8, True), (4, 4, False), (4, 4, True), (3, 3, False), (2, 2, False)]
pytestmark = pytest.mark.onnxruntime


def differing(expected, got):
    assert set(expected) == set(got)
    return {name: int((expected[name] != got[name]).sum()) for name in expected if (expected[name] != got[name]).any()}


def run(path, images, level="all"):
    return OnnxSession(path, level).run(images)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.onnx"


@pytest.mark.parametrize(("weights", "activations", "ties"), CASES)
@pytest.mark.parametrize("name", MIDDLES)
def test_session_equals_integer_arithmetic(name, weights, activations, ties, path):
    reference, images = frozen(name, weights, activations, ties=ties)
    expected = IntegerArithmetic(reference).run(images)
    emit_model(reference, path, "qdq")
    for level in ("all", "extended"):
        assert not differing(expected, run(path, images, level)), level
    assert integer_ops(path)["reasons"] == {}
    emit_model(reference, path, "qoperator")
    for level in ("all", "extended", "basic", "disabled"):
        assert not differing(expected, run(path, images, level)), level
    assert integer_ops(path)["reasons"] == {}


@needs_vnni
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("name", MIDDLES)
def test_the_whole_range_of_8_bit_weights_is_exact_on_a_processor_with_vnni(name, ties, path):
    reference, images = frozen(name, ties=ties, target=TARGETS["vnni"])
    codes = [q.codes for q in quantizers(reference.graph).values() if q.codes is not None]
    assert max(int(weight.abs().max()) for weight in codes) > 64
    expected = IntegerArithmetic(reference).run(images)
    for form in ("qdq", "qoperator"):
        emit_model(reference, path, form)
        for level in ("all", "extended"):
            assert not differing(expected, run(path, images, level)), (form, level)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, pytest.param(7, marks=needs_vnni)])
def test_asymmetric_weights_run_in_the_same_integer_kernels(bits, path):
    profile = "generic" if bits < 7 else "vnni"  # 7 asymmetric bits reach beyond what pairs of products hold
    reference, images = frozen("linear_output", bits, 8, "weights.symmetric=false", target=TARGETS[profile])
    weight = quantizers(reference.graph)["conv2d_w"]
    assert len(set(weight.zero_point.tolist())) > 1
    expected = IntegerArithmetic(reference).run(images)
    for form in ("qdq", "qoperator"):
        emit_model(reference, path, form)
        assert not differing(expected, run(path, images))
        assert integer_ops(path)["float"] == 0
        assert "Gather" not in integer_ops(path)["kernels"], "weights are unpacked at every inference"


@pytest.mark.parametrize("bits", [8, 4, 3])
def test_one_scale_for_a_whole_weight(bits, path):
    reference, images = frozen("add", bits, 8, "weights.granularity=per_tensor")
    expected = IntegerArithmetic(reference).run(images)
    for form in ("qdq", "qoperator"):
        emit_model(reference, path, form)
        assert not differing(expected, run(path, images))
        assert integer_ops(path)["float"] == 0


@pytest.mark.parametrize("name", ["add", "relu6", "hardtanh", "pad_slice", "hardswish", "cat_signed"])
@pytest.mark.parametrize("bits", [8, 4])
def test_signed_symmetric_activations_are_stored_shifted(name, bits, path):
    reference, images = frozen(name, bits, bits, "activations.symmetric=true")
    expected = IntegerArithmetic(reference).run(images)
    for form in ("qdq", "qoperator"):
        emit_model(reference, path, form)
        assert not differing(expected, run(path, images))
        assert integer_ops(path)["float"] == 0


@pytest.mark.parametrize("name", ["scaled", "gelu"])
def test_what_runs_in_float_is_named_and_the_rest_stays_in_integers(name, path):
    reference, images = frozen(name)
    expected = IntegerArithmetic(reference).run(images)
    for form in ("qdq", "qoperator"):
        emit_model(reference, path, form)
        got = run(path, images)
        assert np.array_equal(expected["relu_q"], got["relu_q"]) if "relu_q" in got else name == "scaled"
        assert np.allclose(expected["logits"], got["logits"], atol=0.05)
        found = integer_ops(path)
        assert found["float"] >= 1 and found["integer"] >= 4
        assert set(found["reasons"]) <= set(got)


def test_inputs_clamp_at_both_ends_and_ties_occur():
    reference, images = frozen("relu", ties=True)
    codes = IntegerArithmetic(reference).run(images)["x_q"]
    assert {0, 255} <= set(np.unique(codes).tolist())
    scale = float(quantizers(reference.graph)["x_q"].scale)
    assert ((images.numpy() / scale) % 1 == 0.5).any()


def test_the_same_reference_gives_the_same_bytes(path):
    reference, _ = frozen("squeeze_excite", 4, 4)
    for form in ("qdq", "qoperator"):
        emit_model(reference, path, form)
        first = path.read_bytes()
        emit_model(copy.deepcopy(reference), path, form)
        assert path.read_bytes() == first


def test_the_file_is_what_old_runtimes_load(path):
    reference, _ = frozen("add", 4, 4)
    emit_model(reference, path)
    model = onnx.load(path)
    assert model.ir_version == 9
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == 19
    assert [value.name for value in model.graph.input] == ["input"]
    assert [value.name for value in model.graph.output] == ["logits"]
    batch = [model.graph.input[0].type.tensor_type.shape.dim[0].dim_param]
    batch.append(model.graph.output[0].type.tensor_type.shape.dim[0].dim_param)
    assert batch == ["N", "N"]
    assert not model.graph.value_info and not any(node.name for node in model.graph.node)
    stored = {tensor.data_type for tensor in model.graph.initializer}
    names = onnx.TensorProto
    assert stored <= {names.INT8, names.UINT8, names.INT32, names.INT64, names.FLOAT}


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_a_batch_of_one_is_a_batch(form, path):
    reference, images = frozen("shuffle", 4, 4)
    emit_model(reference, path, form)
    assert not differing(IntegerArithmetic(reference).run(images[:1]), run(path, images[:1]))


# --- the comparison can fail ----------------------------------------------------------------------------------------


def _weights(reference):
    graph = reference.graph
    return [q for node in graph.graph.nodes if is_constant(node) and (q := quantizer_of(graph, node))]


def flip_a_weight_code(reference):
    codes = _weights(reference)[1].codes
    codes.view(-1)[3] = codes.view(-1)[3] - 1 if codes.view(-1)[3] > 0 else codes.view(-1)[3] + 1


def shift_a_zero_point(reference):
    quantizer = quantizers(reference.graph)["conv2d_1_q"]
    quantizer.zero_point.add_(1)


def bias_off_by_one(reference):
    biases = [b for n in reference.graph.graph.nodes if (b := bias_quantizer_of(reference.graph, n))]
    biases[1].codes[2] += 1


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize("mutate", [flip_a_weight_code, shift_a_zero_point, bias_off_by_one])
@pytest.mark.parametrize("bits", [8, 4])
def test_one_wrong_number_is_seen(bits, mutate, form, path):
    reference, images = frozen("add", bits, 8)
    expected = IntegerArithmetic(reference).run(images)
    broken = copy.deepcopy(reference)
    mutate(broken)
    emit_model(broken, path, form)
    assert sum(differing(expected, run(path, images)).values()) > 0


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_one_dropped_clip_is_seen(form, path):
    reference, images = frozen("relu", 4, 4)
    emit_model(reference, path, form)
    model = onnx.load(path)
    graphs = [model.graph, *model.functions]
    clip = next(node for graph in graphs for node in graph.node if node.op_type == "Clip")
    clip.op_type = "Identity"
    del clip.input[1:]
    onnx.save(model, path)
    assert sum(differing(IntegerArithmetic(reference).run(images), run(path, images)).values()) > 0


# --- what cannot be written -----------------------------------------------------------------------------------------


def test_an_operator_without_emitter_is_refused_before_anything_is_written(path):
    reference, _ = frozen("relu")
    node = next(n for n in reference.graph.graph.nodes if n.op == "call_function")
    node.target = torch.ops.aten.digamma.default
    node.args = (node.args[0],)
    (found, why), = unsupported(reference.graph)
    assert found is node and why.startswith("there is no ONNX emitter for digamma, and torch.onnx cannot write it")
    with pytest.raises(TargetError, match="digamma"):
        emit_model(reference, path)
    assert not path.exists()


# --- levels that are not uniform --------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", EVERY_X86)
# Sums of two operands that are both broadcast have an Expand of their own, of codes.
@pytest.mark.parametrize(
    "name", [*sorted({*MIDDLES} - {"pad_slice", "add_both", "add_rows"}), "residual", "scaled"])
def test_codebooks_and_nested_activations_run_in_integer_kernels(name, profile, path):
    """Mixed 0 to 4 bits in every tensor, both forms, every level: not even an unfused session differs in a code."""
    if name == "residual":
        reference, images = frozen_levels(TARGETS[profile])
    else:
        reference, images = frozen_with_levels(name, profile)
    specs = [quantizer.spec for quantizer in quantizers(reference.graph).values()]
    assert {"multibit", "nested"} <= {spec.grid.kind for spec in specs}
    expected = IntegerArithmetic(reference).run(images)
    for form in ("qdq", "qoperator"):
        emit_model(reference, path, form)
        for level in ("all", "extended") if form == "qdq" else ("all", "extended", "basic", "disabled"):
            assert not differing(expected, run(path, images, level)), (form, level)
        found = integer_ops(path)
        assert (found["float"] > 0) == (name == "scaled")
        assert not {"Gather", "Expand"} & set(found["kernels"]), "codebooks are looked up at every inference"
        assert found["kernels"]["QLinearMul"] >= 2 * sum(spec.grid.kind == "nested" for spec in specs)


def test_every_level_of_every_channel_reaches_the_session(path):
    reference, images = frozen_levels(TARGETS["generic"], multibit_recipe("weights.levels=uniform", "weights.bits=8"))
    emit_model(reference, path)
    got = run(path, images)
    reached = {bits: set() for bits in range(5)}
    for name in ("relu_q", "relu_1_q", "relu_2_q"):
        for channel, bits in enumerate(quantizers(reference.graph)[name].channel_bits.tolist()):
            reached[bits] |= set(np.unique(got[name][:, channel]).tolist())
    steps = {bits: (1 << bits) - 1 for bits in range(1, 5)}
    assert reached == {0: {0}, **{bits: {105 // n * i for i in range(n + 1)} for bits, n in steps.items()}}


def test_a_channel_of_0_bits_is_a_row_of_zeros(path):
    reference, images = frozen_levels(TARGETS["generic"])
    weight = quantizers(reference.graph)["conv2d_1_w"]
    pruned = weight.channel_bits.tolist().index(0)
    emit_model(reference, path)
    assert not weight.codes[pruned].any()
    maps = run(path, images)["relu_1_q"][:, pruned]
    assert len(np.unique(maps)) == 1, "the channel is its bias, whatever comes in"


def test_a_file_without_the_second_rounding_is_seen(path):
    reference, images = frozen_levels(TARGETS["generic"])
    expected = IntegerArithmetic(reference).run(images)
    broken = copy.deepcopy(reference)
    quantizers(broken.graph)["relu_1_q"].set_channel_bits(torch.full((8,), 4))
    emit_model(broken, path)
    assert "relu_1_q" in differing(expected, run(path, images))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", [*ENDS, *FLOAT_ENDS])
def test_results_that_are_laid_out_leave_their_own_grids(name, form, tmp_path):
    target = targets(form)["generic"]
    reference, images, expected = frozen_end(name, target)
    emit_model(reference, tmp_path / "model.onnx", form)
    found = open_session(tmp_path / "model.onnx").run(images)
    arithmetic = IntegerArithmetic(reference)
    want = arithmetic.follow(images, found).results
    assert all(np.array_equal(found[key], codes) for key, codes in want.items() if key != LOGITS)
    assert bool(arithmetic.float_outputs) == (name in FLOAT_ENDS)
    if not arithmetic.float_outputs:
        assert np.array_equal(found[LOGITS].view(np.uint32), np.ascontiguousarray(want[LOGITS]).view(np.uint32))
    # Every number within what 8 bits of its own branch explain; on one grid with the boxes scores would be lost.
    assert np.median(np.abs(found[LOGITS] - expected.numpy()) / (np.abs(expected.numpy()) + 0.01)) < 0.02
