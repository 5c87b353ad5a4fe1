"""The graph of a small model at each stage, with bits and units once it is quantized."""

import pytest

from tests.tools.small_subject import ARCH, small_subject
from tools import show_graph


@pytest.fixture
def model(tmp_path):
    small_subject(tmp_path)
    return str(tmp_path / "tiny.pth")


def _show(capsys, *arguments):
    code = show_graph.main([*arguments, "--arch", ARCH, "--input-shape", "3,8,8"])
    return code, capsys.readouterr().out


def test_each_stage_shows_what_it_has(model, capsys):
    shown = {stage: _show(capsys, model, "--stage", stage)[1] for stage in show_graph.STAGES}
    assert "batch_norm" in shown["captured"] and "batch_norm" not in shown["prepared"]
    assert "relu_q" in shown["quantized"] and "relu_q" not in shown["prepared"]
    assert "8 bits 0..255, asymmetric" in shown["quantized"] and "int32" in shown["quantized"]


def test_bits_follow_the_recipe(model, capsys):
    assert "4 bits 0..15" in _show(capsys, model)[1]
    assert "4 bits" not in _show(capsys, model, "--recipe", "mse_w8a8")[1]


def test_bad_input_has_the_compilers_exit_code(model, capsys):
    code, text = _show(capsys, model, "--recipe", "qdrop_w4a9")
    assert code == 2 and "qdrop_w4a" in text
