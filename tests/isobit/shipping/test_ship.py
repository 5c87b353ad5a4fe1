"""What a folder is worth: one wrong number fails the gate, and data that fits nothing is said to do so."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from isobit import build as story
from isobit.backends.base import BACKENDS
from isobit.pipeline.errors import InputError
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.samples import data
from tests.examples import tiny
from tests.isobit.commands import FAST, SMALL, left_after

# --- the gate can fail ---


def flip_weight_code(graph):
    """One code of the first convolution, its second highest bit."""
    tensor = next(t for t in graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4)
    codes = numpy_helper.to_array(tensor).copy()
    codes.flat[0] ^= 0x40
    tensor.CopyFrom(numpy_helper.from_array(codes, tensor.name))


def shift_zero_point(graph):
    """Move the zero point of one QuantizeLinear; the DequantizeLinear after it keeps its own."""
    node = [node for node in graph.node if node.op_type == "QuantizeLinear"][1]
    old = next(t for t in graph.initializer if t.name == node.input[2])
    value = numpy_helper.to_array(old)
    graph.initializer.append(numpy_helper.from_array(np.asarray(value + 1, value.dtype), "shifted"))
    node.input[2] = "shifted"


def drop_clip(graph):
    """Drop the clip of one tensor below 8 bits; what was clipped keeps its name."""
    clip = next(node for node in graph.node if node.op_type == "Clip")
    producer = next(node for node in graph.node if clip.input[0] in node.output)
    producer.output[0] = clip.output[0]
    graph.node.remove(clip)


def add_one_to_bias(graph):
    """To the first element of the first int32 bias."""
    dequantized = {node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    tensor = next(t for t in graph.initializer if t.data_type == onnx.TensorProto.INT32 and t.name in dequantized)
    codes = numpy_helper.to_array(tensor).copy()
    codes[0] += 1
    tensor.CopyFrom(numpy_helper.from_array(codes, tensor.name))


NEAREST_W4A4 = ("--recipe", "qdrop_w4a4", *SMALL, "--set", "method={name: nearest}")


@pytest.mark.onnxruntime
@pytest.mark.parametrize(("mutate", "recipe"), [
    (flip_weight_code, FAST), (shift_zero_point, FAST), (drop_clip, NEAREST_W4A4), (add_one_to_bias, FAST),
], ids=lambda value: getattr(value, "__name__", None))
def test_one_wrong_number_in_the_file_fails_the_build(command, monkeypatch, tmp_path, mutate, recipe):
    backend = BACKENDS.get("onnx")
    emit = backend.emit

    def emit_wrong(reference, folder):
        written = emit(reference, folder)
        model = onnx.load(folder / backend.model_file)
        before = model.SerializeToString()
        mutate(model.graph)
        assert model.SerializeToString() != before
        onnx.save(model, folder / backend.model_file)
        return written

    monkeypatch.setattr(backend, "emit", emit_wrong)
    result = command(recipe=recipe, evaluation="many.npz")
    assert result.exit_code == 1, result.stdout + result.stderr
    words = r"PARITY FAILED: ([1-9][\d,]* of [\d,]+ integer codes differ|every field of the file)"
    assert re.match(words, result.stdout)
    assert left_after(tmp_path) == ["out-failed"]
    parity = json.loads((tmp_path / "out-failed" / "parity.json").read_text())
    assert not parity["gate"]["passed"]
    assert parity["first_divergence"] is not None or parity["logits_differing"]
    assert parity["read_back"]["differing"] and f"read back: {parity['read_back']['text']}".lower() in (
        tmp_path / "out-failed" / "report.md").read_text().lower()


def add_one_to_zero_point_of_bias(graph):
    """That of the classifier: a session adds it as if its zero point were 0, and no sample shows it."""
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    node = [node for node in graph.node if types.get(node.input[-1]) == onnx.TensorProto.INT32][-1]
    zeros = next(tensor for tensor in graph.initializer if tensor.name == node.input[-1])
    graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(zeros) + 1, "shifted"))
    node.input[len(node.input) - 1] = "shifted"


@pytest.mark.onnxruntime
def test_what_no_sample_shows_fails_the_build_by_layer_and_field(command, monkeypatch, tmp_path):
    backend = BACKENDS.get("onnx")
    emit = backend.emit

    def emit_wrong(reference, folder):
        written = emit(reference, folder)
        model = onnx.load(folder / backend.model_file)
        add_one_to_zero_point_of_bias(model.graph)
        onnx.save(model, folder / backend.model_file)
        return written

    monkeypatch.setattr(backend, "emit", emit_wrong)
    result = command(recipe=FAST, evaluation="many.npz")
    assert result.exit_code == 1, result.stdout + result.stderr
    read = json.loads((tmp_path / "out-failed" / "parity.json").read_text())["read_back"]
    told = read["differences"][0]
    assert told["field"] == "logits Gemm.C dequantize.zero_point" and told["layer"]
    assert "every field of the files" in result.stdout and told["field"] in result.stdout


def test_the_gate_is_what_makes_the_difference(command, tmp_path):
    """The recipe of the dropped Clip passes as it is."""
    result = command(recipe=NEAREST_W4A4, evaluation="many.npz")
    assert result.exit_code == 0, result.stdout + result.stderr
    assert zipfile.is_zipfile(tmp_path / "out" / "golden.npz")
    read = json.loads((tmp_path / "out" / "parity.json").read_text())["read_back"]
    assert read["operators"] > 10 and (read["differing"], read["unread"], read["reason"]) == (0, [], "")
    assert re.search(r"read back +\d+ operators, \d+ constants, every field as the reference says", result.stdout)


# --- what an exact artifact is worth ---


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """model.pth, and samples whose labels are what the model says of them: it is right by definition."""
    folder = tmp_path_factory.mktemp("labelled")
    model, _ = tiny.model_and_images()
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(300, 3, 8, 8, generator=generator) + 2 * torch.randn(300, 3, 1, 1, generator=generator)
    with torch.no_grad():
        y = model(x).argmax(1)
    torch.save(model.state_dict(), folder / "model.pth")
    named = {
        "calib": (x[:50], y[:50]), "val": (x, y), "shuffled": (x, y[torch.randperm(300, generator=generator)]),
        "same": (x[:1].repeat(50, 1, 1, 1), y[:50]), "black": (torch.zeros(50, 3, 8, 8), y[:50]),
        "pixels": (255 * torch.rand(50, 3, 8, 8, generator=generator), y[:50]),
    }
    for name, (images, labels) in named.items():
        np.savez(folder / f"{name}.npz", x=images.numpy(), y=labels.numpy())
    np.savez(folder / "unlabelled.npz", x=x.numpy())
    return folder


@pytest.mark.parametrize(
    ("calib", "evaluation", "words"),
    [
        ("calib", "val", ""),
        ("black", "val", "of 50 calibration samples all are one and the same sample"),
        ("same", "val", "of 50 calibration samples all are one and the same sample"),
        ("pixels", "val", "calibration inputs run from"),
        ("pixels", "unlabelled", "scaled or normalised otherwise"),
        ("calib", "shuffled", "the float network itself is at or near chance level"),
    ],
)
def test_data_that_makes_an_artifact_worthless_is_a_warning_with_its_cause_in_every_place(
    command, labelled, tmp_path, calib, evaluation, words
):
    result = command("--target", "reference", model=labelled / "model.pth", calib=labelled / f"{calib}.npz",
                     evaluation=labelled / f"{evaluation}.npz", recipe=("--recipe", "minmax_w8a8"))
    assert result.exit_code == 0, result.stderr
    status = "WARNING" if words else "OK"
    assert re.match(rf"PARITY PASSED: .*\nACCURACY {status}: ", result.stdout), result.stdout
    report = (tmp_path / "out" / "report.md").read_text()
    parity = json.loads((tmp_path / "out" / "parity.json").read_text())
    headline = result.stdout.splitlines()[1].removeprefix(f"ACCURACY {status}: ")
    assert parity["verdicts"]["accuracy"]["text"] == headline and f"**ACCURACY {status}:** {headline}" in report
    for text in (result.stdout, report):
        assert words in text and "the method" not in text.split("\n## ")[0]


def test_a_loss_is_a_warning_and_max_drop_makes_it_a_gate(command, labelled, tmp_path):
    given = {"model": labelled / "model.pth", "calib": labelled / "calib.npz", "evaluation": labelled / "val.npz",
             "recipe": ("--recipe", "minmax_w8a8", "--set", "weights.bits=2", "--set", "activations.bits=2")}
    result = command("--target", "reference", **given)
    assert result.exit_code == 0 and "ACCURACY WARNING" in result.stdout and "few bits" in result.stdout
    result = command("--target", "reference", "--max-drop", "5", out="gated", **given)
    assert result.exit_code == 1
    assert re.match(r"PARITY PASSED: .*\nACCURACY FAILED: top-1 .*--max-drop allows 5", result.stdout), result.stdout
    assert "look at gated-failed/parity.json" in result.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gated-failed", "out"]


class Positions(nn.Module):
    """Maps of classes: one choice at every position."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, classes, 1)

    def forward(self, x):
        return self.last(torch.relu(self.conv(x)))


@pytest.mark.parametrize(("classes", "dense", "kind"), [(4, True, "maps"), (4, False, "values"), (1, False, "values")])
def test_maps_and_values_have_no_accuracy_and_no_share_above_a_hundred(labelled, tmp_path, classes, dense, kind):
    torch.manual_seed(0)
    calib, val = (data.open_data(labelled / f"{name}.npz", batch_size=20, purpose=purpose)
                  for name, purpose in (("calib", "calib"), ("val", "eval")))
    recipe = load_recipe("minmax_w8a8")
    if dense:  # labels of the positions say that these are maps of classes
        val = data.array_batches(val.materialize()[0], torch.zeros(300, 8, 8, dtype=torch.int64), 20, "eval", "dense")
    build = story.compile_model(Positions(classes).eval(), recipe, "reference", calib, val, tmp_path / "a")
    found = build.parity.to_json()
    assert found["outputs"] == kind and set(found["accuracy"].values()) == {None}
    assert found["verdicts"]["accuracy"]["status"] == "ok" and "not compared" in found["verdicts"]["accuracy"]["text"]
    shares = [found["top1_agreement"], *found["top1_agreement_with_artifact"].values()]
    assert all(share is None for share in shares) if kind == "values" else all(80 < share <= 100 for share in shares)
    assert 20 < found["signal_to_noise_db"]["artifact"] < 80
    with pytest.raises(InputError, match="accuracy gate"):
        story.compile_model(Positions(classes).eval(), recipe, "reference", calib, val, tmp_path / "b",
                            story.Options(max_drop=1.0))


class Shifting(tiny.Residual):
    """Writes to the tensor that it is given."""

    def forward(self, x):
        x -= 0.5
        x *= 2.0
        return super().forward(x)


def test_every_stage_of_a_network_that_writes_to_its_input_sees_fresh_samples(labelled, tmp_path):
    given, _ = tiny.model_and_images()
    model = Shifting()
    model.load_state_dict(given.state_dict())
    calib = data.open_data(labelled / "calib.npz", batch_size=20, purpose="calib")
    x = torch.from_numpy(np.load(labelled / "val.npz")["x"])
    with torch.no_grad():
        y = given(2 * (x - 0.5)).argmax(1)
    val = data.array_batches(x, y, 50, "eval", "fresh")
    build = story.compile_model(model.eval(), load_recipe("minmax_w8a8"), "reference", calib, val, tmp_path / "a")
    assert build.parity.accuracy["float"] == 100.0 and build.parity.accuracy["artifact"] > 90


# --- what an artifact is made of ------------------------------------------------------------------------------------

# SHA-256 of the structure of a 4-bit artifact: operators, their attributes, who reads what, element types and shapes in
# ONNX; calls and places in the arena in C. Names and floating-point numbers differ between versions of torch and
# between processors, and codes that lie at a tie with them: they are left out. A new number here is a changed artifact.
STRUCTURES = {
    "onnx": "0a230759c8f6422cff4a063acd619b6882a2bd33e01cbc55cab1d200feb016d7",
    "c": "36fd8442ccc4f01f14d813d72940f532232e1a3d9f8aa9f2a689bc6f5961d3d7",
}


def onnx_structure(folder):
    graph = onnx.load(folder / "model.onnx").graph
    made = {value: f"in{place}" for place, value in enumerate(port.name for port in graph.input)}
    made |= {each.name: f"{each.data_type}{list(each.dims)}" for each in graph.initializer} | {"": "-"}
    lines = []
    for node in graph.node:
        exact = sorted((each.name, str(onnx.helper.get_attribute_value(each))) for each in node.attribute
                       if each.type in (onnx.AttributeProto.INT, onnx.AttributeProto.INTS))  # fmt: skip
        lines.append(f"{node.domain}:{node.op_type} {exact} {[made[value] for value in node.input]}")
        made |= {value: f"{len(lines)}.{place}" for place, value in enumerate(node.output)}
    return "\n".join([*lines, *(made[port.name] for port in graph.output)])


def c_structure(folder):
    _, _, body = (folder / "model.c").read_text().partition("_run(")
    return re.sub(r"/\*.*?\*/", "", body[:body.index("\n}")])


@pytest.mark.parametrize(("target", "structure"), [("onnx", onnx_structure), ("c", c_structure)])
def test_artifacts_of_4_bits_are_made_of_what_they_were(target, structure, tmp_path):
    """Two recipes and two sets of weights give one structure: what is compared does not depend on numbers."""
    found = set()
    for seed, (name, edits) in enumerate([("nearest_w4a4", []), ("qdrop_w4a4", ["method.steps=5"])]):
        model, images = tiny.model_and_images(seed, samples=16)
        recipe = load_recipe(name, ["images.batch_size=8", "images.count=16", *edits])
        samples = data.array_batches(images, None, 8, "calib", "memory")
        story.compile_model(model, recipe, target, samples, None, tmp_path / name)
        found.add(hashlib.sha256(structure(tmp_path / name).encode()).hexdigest())
    assert found == {STRUCTURES[target]}
