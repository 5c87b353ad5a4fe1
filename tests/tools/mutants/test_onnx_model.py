"""Mutants of a model: each changes the file, kinds are all there, and the same seed gives the same ones."""

import onnx
import pytest

from isobit.backends.onnx.emit import FORMS, emit_model
from tests.examples.onnx_cases import frozen
from tools.mutants.onnx_model import mutants

KINDS = {"weight", "bias", "scale", "zero point or end", "sizes", "axis", "dropped", "operator", "edge", "fact",
         "order", "name", "text"}


@pytest.mark.parametrize("form", FORMS)
def test_each_mutant_changes_what_it_says(form, tmp_path):
    emit_model(frozen("add", 4, 4)[0], tmp_path / "model.onnx", form)
    content = (tmp_path / "model.onnx").read_bytes()
    found = list(mutants(onnx.load_model_from_string(content)))
    assert {each.kind for each in found} >= KINDS and len({each.name for each in found}) > 0.98 * len(found)
    same = 0
    for each in found:
        model = onnx.load_model_from_string(content)
        each.edit(model)
        same += model.SerializeToString(deterministic=True) == content
    assert same < 0.02 * len(found)
    again = mutants(onnx.load_model_from_string(content))
    assert [each.name for each in again] == [each.name for each in found]
