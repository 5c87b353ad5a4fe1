"""Operators in float: what integer kernels compute is proven on both sides of them, and nothing slips through."""

import copy
import json

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from isobit import passes
from isobit.backends.describe import tensor_table
from isobit.backends.execution import integer
from isobit.backends.onnx import OnnxBackend
from isobit.backends.onnx.arithmetic import IntegerArithmetic
from isobit.backends.onnx.device.device_runner import compare_runs
from isobit.backends.onnx.session import integer_ops
from isobit.backends.onnx.target import TARGETS
from isobit.pipeline.capture.capture import capture
from isobit.pipeline.graph.annotation import kept_float
from isobit.pipeline.graph.nodes import op_name
from isobit.pipeline.graph.quantized_tensors import quantizers
from isobit.pipeline.proof.counts import FLOAT_ROUNDING
from isobit.pipeline.proof.gates import apply_gates
from isobit.pipeline.proof.parity import compare
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.recipe.schema import Override
from isobit.place import place
from isobit.shipping.ship import write_golden
from tests.backends.onnx.device.test_device_runner import run as run_device
from tests.examples.nets import build
from tests.examples.onnx_cases import FOLDED_MIDDLES, frozen
from tests.examples.sealed import change_golden, seal, write_documents
from tests.examples.tiny import calibrate_by_range, frozen_reference
from tools.check.mutate_artifact import judge_here, mutants, survivors

F = nn.functional
pytestmark = pytest.mark.onnxruntime
FORMS = ("qdq", "qoperator")


class Tail(nn.Module):
    """Integers up to the classifier, then a float operator."""

    def __init__(self, tail) -> None:
        super().__init__()
        self.conv, self.head, self.tail = nn.Conv2d(3, 8, 3), nn.Linear(8, 5), tail

    def forward(self, x):
        return self.tail(self.head(F.relu(self.conv(x)).mean((2, 3))))


def tail_net(tail, recipe="minmax_w8a8"):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model, images = Tail(tail).eval(), torch.randn(24, 3, 9, 9)
    return frozen_reference(TARGETS["generic"], recipe, model, images)


def floats_net():
    with torch.random.fork_rng():
        torch.manual_seed(4)
        images = torch.randn(24, 3, 12, 12)
    return frozen_reference(TARGETS["generic"], "qdrop_w4a4", build("floats")[0], images)


def kept_net(*where):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        images = torch.randn(24, 3, 12, 12)
    recipe = load_recipe("minmax_w8a8")
    overrides = (Override(where=where, float=True),)
    return frozen_reference(TARGETS["generic"], recipe.model_copy(update={"overrides": overrides}), None, images)


NETS = {
    "kept_layers": lambda: kept_net("op:conv2d"),
    "kept_sums": lambda: kept_net("op:add", "op:mean"),
    **{name: lambda name=name: frozen(name, 4, 4) for name in ("softmax", "layer_norm_gelu", "gelu_read_twice")},
    "gelu": lambda: frozen("gelu", 8, 8),
    # Weights in float: a session must not round them, at any level (gates allow what float rounding explains).
    **{name: lambda name=name: frozen(name, 8, 8) for name in (
        "conv_transpose", "conv_transpose_grouped", "conv_transpose_twice", "matmul_constant", "prelu",
    )},
    "floats": floats_net,
    "softmax_tail": lambda: tail_net(lambda x: x.softmax(-1)),
    "tanh_tail": lambda: tail_net(lambda x: 3 * torch.tanh(x), "qdrop_w4a4"),
}


def report_of(arithmetic, sessions, images, gated):
    stages = {name: lambda x: torch.zeros(len(x), 5) for name in ("float", "calibrated")}
    report = compare([(images[:14], None), (images[14:], None)], stages, arithmetic, sessions, gated=gated)
    apply_gates(report)
    return report


@pytest.mark.parametrize("form", FORMS)
def test_no_session_rounds_the_float_weights_of_a_transposed_convolution(form, tmp_path):
    reference, images = frozen("conv_transpose", 8, 8)
    report = prove(reference, images, tmp_path, form)
    assert {level.level: level.unexplained for level in report.levels} == dict.fromkeys(
        ("all", "extended", "basic", "disabled"), 0)
    found = integer_ops(tmp_path / "model.onnx")
    assert "ConvTranspose" in found["reasons"]["relu_1_q"] and found["kernels"]["ConvTranspose"] == 1


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", FOLDED_MIDDLES)
def test_a_batch_that_is_folded_or_moved_is_proven_sample_by_sample(name, form, tmp_path):
    reference, images = frozen(name, 8, 8)
    report = prove(reference, images, tmp_path, form)
    assert report.passed, report.rules
    compared = report.deployed.codes.compared + sum(entry.compared for entry in report.deployed.boundaries.values())
    found = IntegerArithmetic(reference).run(images)
    assert compared == sum(codes.size for key, codes in found.items() if key != "logits")
    assert all(len(codes) == len(images) for codes in found.values())
    table = {entry.name: entry.elements for entry in tensor_table(reference.graph, TARGETS["vnni"])}
    assert all(table[key] * len(images) == codes.size for key, codes in found.items() if key != "logits")


def prove(reference, images, folder, form="qdq", emitted=None):
    backend = OnnxBackend(form)
    backend.emit(emitted or reference, folder)
    sessions = {level: backend.open(folder, level) for level in backend.levels}
    return report_of(backend.arithmetic(reference), sessions, images, backend.gated_levels)


class Shifted:
    """A session of a library whose float operators differ: `change` of the codes of one boundary, then exact."""

    def __init__(self, arithmetic, name, change):
        self.arithmetic, self.name, self.change = arithmetic, name, change

    def run(self, x):
        codes = self.change(self.arithmetic.run(x)[self.name])
        return {**self.arithmetic.follow(x, {self.name: codes}).results, self.name: codes}


def one_step(codes):
    changed = codes.copy()
    changed.reshape(len(codes), -1)[:, 5] ^= 1
    return changed


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NETS)
def test_a_network_with_float_operators_is_proven(name, form, tmp_path):
    reference, images = NETS[name]()
    report = prove(reference, images, tmp_path, form)
    assert report.passed, report.rules
    found = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert found["codes"]["compared"] > 0 and found["codes"]["differing"] == 0
    expected = IntegerArithmetic(reference)
    assert list(found["float_boundaries"]) == list(expected.float_boundaries)
    assert all(entry["compared"] > 0 and entry["max_lsb"] <= 1 for entry in found["float_boundaries"].values())
    assert (found["float_output"] is not None) == name.endswith("_tail") == bool(expected.float_outputs)
    assert bool(expected.float_boundaries) != name.endswith("_tail")
    counted = found["codes"]["compared"] + sum(e["compared"] for e in found["float_boundaries"].values())
    assert counted == sum(value.size for key, value in expected.run(images).items() if key != "logits")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("window", [(2, 2, 0, True), (3, 2, 1, True), ((3, 2), 2, (1, 1), True, False)])
def test_an_average_whose_last_window_is_cut_off_is_left_in_float_and_proven(window, form, tmp_path):
    class Cut(nn.Sequential):
        def forward(self, x):
            return self[1](F.avg_pool2d(self[0](x), *window)).mean((2, 3))

    with torch.random.fork_rng():
        torch.manual_seed(6)
        model, images = Cut(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 1)).eval(), torch.randn(24, 3, 8, 9)
    quantized = place(capture(model, images[:1]), load_recipe("minmax_w8a8"), OnnxBackend(form), None, False)
    reasons = {op_name(node): kept_float(node) for node in quantized.graph.graph.nodes if kept_float(node)}
    assert list(reasons) == ["avg_pool2d"] and "cut off" in reasons["avg_pool2d"]
    report = prove(passes.legalize(calibrate_by_range(quantized, images))[0], images, tmp_path, form)
    assert report.passed and report.deployed.codes.compared > 0 and len(report.deployed.boundaries) == 1


def test_boundaries_are_the_tensors_after_float_operators_and_no_others():
    assert IntegerArithmetic(frozen("gelu")[0]).float_boundaries == ("gelu_q",)
    assert IntegerArithmetic(frozen("layer_norm_gelu", 4, 4)[0]).float_boundaries == ("gelu_q",)
    assert IntegerArithmetic(floats_net()[0]).float_boundaries == ("gelu_q", "layer_norm_q", "softmax_q")
    assert IntegerArithmetic(frozen("squeeze_excite")[0]).float_boundaries == ()


def test_one_step_that_float_rounding_explains_passes_is_counted_and_what_follows_is_compared(monkeypatch):
    """The rounding allowance is raised to a step; the codes that follow are those of the session's own boundary."""
    reference, images = frozen("gelu")
    arithmetic = IntegerArithmetic(reference)
    session = Shifted(arithmetic, "gelu_q", one_step)
    assert any((session.run(images)[n] != value).any() for n, value in arithmetic.run(images).items() if n != "gelu_q")
    monkeypatch.setattr(integer, "FLOAT_ROUNDING", 1.1 / 255)
    report = report_of(arithmetic, {"all": session}, images, ["all"])
    assert report.passed and report.deployed.codes.differing == 0 and report.deployed.logits_differing == 0
    assert report.to_json()["float_boundaries"]["gelu_q"] == {
        "compared": 24 * 8 * 81, "differing": 24, "max_lsb": 1, "unexplained": 0, "unsteady": 0,
    }


@pytest.mark.parametrize("change", [one_step, lambda codes: np.minimum(codes, 253) + np.uint8(2)])
def test_one_step_that_float_rounding_does_not_explain_fails(change):
    reference, images = frozen("gelu")
    arithmetic = IntegerArithmetic(reference)
    report = report_of(arithmetic, {"all": Shifted(arithmetic, "gelu_q", change)}, images, ["all"])
    assert not report.passed and report.deployed.codes.differing == 0
    assert [rule.passed for rule in report.rules] == [True, False, True]
    assert report.to_json()["first_divergence"]["tensor"] == "gelu_q"


def test_two_steps_fail_whatever_explains_them(monkeypatch):
    reference, images = frozen("gelu")
    arithmetic = IntegerArithmetic(reference)
    monkeypatch.setattr(integer, "FLOAT_ROUNDING", 0.5)
    session = Shifted(arithmetic, "gelu_q", lambda codes: np.minimum(codes, 253) + np.uint8(2))
    assert not report_of(arithmetic, {"all": session}, images, ["all"]).passed


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("layer", "wrong"), [("conv2d_2_w", "relu_1_q"), ("conv2d_w", "relu_q"), ("linear_w", None)])
def test_one_weight_code_before_or_after_a_float_operator_fails(layer, wrong, form, tmp_path):
    reference, images = frozen("gelu")
    broken = copy.deepcopy(reference)
    quantizers(broken.graph)[layer].codes.view(-1)[3] += 1
    report = prove(reference, images, tmp_path, form, emitted=broken)
    assert not report.passed
    first = report.to_json()["first_divergence"]
    assert (first and first["tensor"]) == wrong
    assert report.deployed.codes.differing + report.deployed.logits_differing > 0


def test_another_formula_of_the_float_operator_fails(tmp_path):
    """The tanh approximation moves codes by one step only, but by more than rounding."""
    reference, images = frozen("gelu")
    broken = copy.deepcopy(reference)
    node = next(n for n in broken.graph.graph.nodes if op_name(n) == "gelu")
    node.kwargs = {"approximate": "tanh"}
    report = prove(reference, images, tmp_path, emitted=broken)
    counted = report.to_json()["float_boundaries"]["gelu_q"]
    assert not report.passed and counted["max_lsb"] == 1 and counted["unexplained"] > 0


def test_a_wrong_float_tail_fails(tmp_path):
    reference, images = tail_net(lambda x: 3 * torch.tanh(x))
    broken = copy.deepcopy(reference)
    node = next(n for n in broken.graph.graph.nodes if op_name(n) == "mul_constant")
    node.args = (node.args[0], 3.001)
    report = prove(reference, images, tmp_path, emitted=broken)
    assert report.deployed.codes.differing == 0 and not report.passed
    assert report.to_json()["float_output"]["largest_error"] > FLOAT_ROUNDING


def test_softmax_never_runs_in_the_kernel_that_overflows(tmp_path):
    reference, _ = frozen("softmax")
    OnnxBackend("qdq").emit(reference, tmp_path)
    kernels = integer_ops(tmp_path / "model.onnx")["kernels"]
    assert "QLinearSoftmax" not in kernels and kernels["LogSoftmax"] == 1


# --- on the device --------------------------------------------------------------------------------------------------


def artifact(name, folder, form="qdq", session=None):
    """`session` computes golden's codes after float operators in place of the artifact's own."""
    reference, images = NETS[name]()
    backend = OnnxBackend(form)
    backend.emit(reference, folder)
    arithmetic = backend.arithmetic(reference)
    session = session(arithmetic) if session else backend.open(folder, "all")
    write_golden(arithmetic, session, [(images, None)], folder / "golden.npz")
    seal(folder)
    return folder


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NETS)
def test_the_device_runner_compares_everything(name, form, tmp_path):
    code, lines = run_device(artifact(name, tmp_path, form))
    assert code == 0 and len(lines) == 3 and lines[-1] == "PASS"
    reference, images = NETS[name]()
    codes = IntegerArithmetic(reference).run(images[:16])
    assert lines[0] == f"samples: 16, codes compared: {sum(v.size for key, v in codes.items() if key != 'logits')}"


@pytest.mark.parametrize(("name", "form"), [("floats", "qdq"), ("gelu", "qoperator"), ("softmax_tail", "qdq")])
def test_no_damage_passes(name, form, tmp_path):
    folder = artifact(name, tmp_path, form)
    write_documents(folder)
    seal(folder)
    found = survivors(folder, mutants(folder, flips=9), judge_here)
    # Golden's outputs are this runtime's own: without an allowance they are compared to the bit, and are equal here.
    assert [each for each in found if not each.startswith("golden without float_output")] == []


@pytest.mark.parametrize("form", FORMS)
def test_a_step_that_float_rounding_explains_is_followed_to_the_logits(form, tmp_path, monkeypatch):
    """Golden comes from a library that rounds one code of each sample to the other side, and goes on from there."""
    monkeypatch.setattr(integer, "FLOAT_ROUNDING", 0.01)
    folder = artifact("gelu", tmp_path, form, lambda arithmetic: Shifted(arithmetic, "gelu_q", one_step))
    code, lines = run_device(folder)
    assert code == 0 and lines[-1] == "PASS"
    assert lines[1] == "float operators round otherwise here: 16 codes, each explained and followed"

    def garbage(golden):
        golden["logits"] = -golden["logits"]

    change_golden(folder, garbage)
    code, lines = run_device(folder)
    assert code == 1 and lines[-1] == "FAIL" and any(line.startswith("logits: ") for line in lines)


def test_a_step_that_float_rounding_does_not_explain_fails(tmp_path):
    """The same library, and golden numbers that allow for nobody to be elsewhere."""
    folder = artifact("gelu", tmp_path, session=lambda arithmetic: Shifted(arithmetic, "gelu_q", one_step))

    def allow_nothing(golden):
        golden["below:gelu_q"][:], golden["above:gelu_q"][:] = 0, 0

    change_golden(folder, allow_nothing)
    code, lines = run_device(folder)
    assert code == 1 and any(line.startswith("gelu_q: 16 of ") for line in lines)


@pytest.mark.parametrize("key", ["code:relu_q", "near:gelu_q", "code:relu_1_q", "code:mean_dim_q", "logits"])
def test_one_number_that_differs_before_at_or_after_a_float_operator_fails(key, tmp_path):
    folder = artifact("gelu", tmp_path)

    def flip(golden):
        golden[key].view(np.uint8).reshape(-1)[0] ^= 1

    change_golden(folder, flip)
    name = key.partition(":")[2] or key
    code, lines = run_device(folder)
    assert code == 1 and any(line.startswith(f"{name}: 1 of ") for line in lines)


def test_another_network_after_a_float_operator_fails(tmp_path):
    folder = artifact("gelu", tmp_path)
    model = onnx.load(folder / "model.onnx")
    bias = [tensor for tensor in model.graph.initializer if list(tensor.dims) == [5] and tensor.data_type == 6][-1]
    bias.raw_data = bytes([bias.raw_data[0] ^ 64]) + bias.raw_data[1:]
    onnx.save(model, folder / "model.onnx")
    seal(folder)
    code, lines = run_device(folder)
    assert code == 1 and any(line.startswith("logits: ") for line in lines)


@pytest.mark.parametrize(("name", "moved", "found"), [("first", 1, 1), ("second", 1, 0), ("second", 2, 1)])
def test_the_whole_model_must_be_its_pieces(name, moved, found):
    codes = np.full((2, 3), 7, np.uint8)
    whole = {"first": codes, "second": codes, "logits": np.ones((2, 2), np.float32)}
    pieces = {**whole, name: codes + np.uint8(moved) * np.eye(2, 3, dtype=np.uint8)}
    assert len(compare_runs(whole, pieces, ["second"], {"logits": None})) == found


def test_a_wrong_float_output_fails_on_the_device(tmp_path):
    folder = artifact("softmax_tail", tmp_path)

    def scale(golden, factor):
        golden["logits"] *= np.float32(factor)

    change_golden(folder, lambda golden: scale(golden, 1 + 1e-6))
    assert run_device(folder)[0] == 0
    change_golden(folder, lambda golden: scale(golden, 1.001))
    code, lines = run_device(folder)
    assert code == 1 and any(line.startswith("logits: ") for line in lines)
