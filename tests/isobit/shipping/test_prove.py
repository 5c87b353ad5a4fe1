"""What a build is proven by, besides its samples, and which samples an emulated processor gets."""

import json

import pytest
import torch

from isobit.backends.execution.directed import SAMPLES
from isobit.backends.onnx.session import OnnxPieces
from isobit.pipeline.samples.data import Batches, array_batches
from isobit.shipping.prove import proof_part
from tests.isobit.commands import FAST, left_after

pytestmark = pytest.mark.onnxruntime


def directed(folder):
    return json.loads((folder / "parity.json").read_text())["directed"]


def test_every_layer_is_run_on_chosen_codes(command, tmp_path):
    result = command(recipe=FAST, evaluation="many.npz")
    assert result.exit_code == 0, result.stdout + result.stderr
    told = directed(tmp_path / "out")
    assert (told["samples"], told["layers"], told["wrong"], told["first"]) == (SAMPLES, True, 0, None)
    assert told["codes"]["compared"] > 10000 and told["shown"]["x_q"] > 0.9
    assert f"directed    {told['text']}" in result.stdout
    assert f"Directed: {told['text']}" in (tmp_path / "out" / "report.md").read_text()


def test_a_kernel_that_is_wrong_on_chosen_codes_alone_fails_the_build(command, monkeypatch, tmp_path):
    run = OnnxPieces.run

    def wrong(self, x, codes):
        found = dict(run(self, x, codes))
        name = list(codes)[1]
        return {**found, name: found[name] ^ (found[name] == found[name].max())}

    monkeypatch.setattr(OnnxPieces, "run", wrong)
    result = command(recipe=FAST, evaluation="many.npz")
    assert result.exit_code == 1 and left_after(tmp_path) == ["out-failed"]
    told = directed(tmp_path / "out-failed")
    assert told["wrong"] > 0 and told["first"] in told["text"] and "chosen to show the kernels" in result.stdout


def test_an_emulated_processor_gets_samples_from_the_whole_set():
    images = torch.arange(40.0).reshape(10, 1, 2, 2)
    evaluation = array_batches(images, None, 4, "eval", "test")
    assert proof_part(evaluation, None) == (evaluation, []) == proof_part(evaluation, 10)
    some, (note,) = proof_part(evaluation, 3)
    assert isinstance(some, Batches) and len(some) == 3 and some.order == (0, 3, 6) and "3 of 10 samples" in note
