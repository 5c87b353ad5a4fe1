"""LiteRT files are made where its tools are installed, and elsewhere it is said which is missing."""

import numpy as np
import pytest
import torch
from torch import nn

from isobit.backends.device.replay import CannotCheck
from isobit.bench.peers import open_litert
from tools.bench.peers.tflite import export, quantize

NETWORK, SAMPLE = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), torch.zeros(1, 3, 12, 12)


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "litert_torch", None)
    with pytest.raises(CannotCheck, match="not installed: litert-torch"):
        export(NETWORK, SAMPLE, tmp_path / "float.tflite")


def test_both_files_run(tmp_path):
    for name in ("litert_torch", "ai_edge_quantizer"):
        pytest.importorskip(name)
    source = export(NETWORK, SAMPLE, tmp_path / "float.tflite")
    quantized = quantize(source, tmp_path / "int8.tflite")
    assert quantized.stat().st_size < source.stat().st_size
    for path in (source, quantized):
        open_litert(path, 1, 1).run()
        interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(str(path))
        ends = [*interpreter.get_input_details(), *interpreter.get_output_details()]
        assert [end["dtype"] for end in ends] == [np.float32] * 2
