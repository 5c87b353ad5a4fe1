"""Mutants of a model: each changes the file, kinds are all there, and the same seed gives the same ones."""

import onnx
import pytest

from isobit.backends.onnx.emit import FORMS, emit_model
from isobit.backends.onnx.metadata import add_metadata
from tests.examples.onnx_cases import frozen
from tools.mutants.onnx_model import mutants

KINDS = {"weight", "bias", "scale", "zero point or end", "sizes", "axis", "dropped", "operator", "edge", "fact",
         "order", "name", "text"}


@pytest.mark.parametrize("form", FORMS)
def test_each_mutant_changes_what_it_says(form, tmp_path):
    emit_model(frozen("add", 4, 4)[0], tmp_path / "model.onnx", form)
    add_metadata(tmp_path / "model.onnx", {"classes": "[]"})
    content = (tmp_path / "model.onnx").read_bytes()
    found = list(mutants(onnx.load_model_from_string(content)))
    assert {each.kind for each in found} >= KINDS and len({each.name for each in found}) > 0.98 * len(found)
    names = {each.name for each in found}
    assert names >= {"opset of '' - 1", "opset of '' twice", "metadata classes twice", "a node without outputs",
                     "input 0 with a denotation", "output 0 with a denotation"}
    same = 0
    for each in found:
        model = onnx.load_model_from_string(content)
        each.edit(model)
        same += model.SerializeToString(deterministic=True) == content
    assert same < 0.02 * len(found)
    again = mutants(onnx.load_model_from_string(content))
    assert [each.name for each in again] == [each.name for each in found]


def test_the_opset_of_the_files_own_functions_is_changed_too(tmp_path):
    emit_model(frozen("squeeze_excite", 3, 4)[0], tmp_path / "model.onnx", "qoperator")
    model = onnx.load(tmp_path / "model.onnx")
    names = {each.name for each in mutants(model)}
    domains = {each.domain for each in model.functions} | {"", "com.microsoft"}
    assert len(domains) == 3
    assert names >= {f"opset of '{domain}' {how}" for domain in domains for how in ("- 1", "twice")}
