"""Variants of an ONNX artifact's model file."""

import onnx
import pytest

from isobit.backends.base import BACKENDS
from tests.examples.onnx_cases import frozen
from tools.mutants.onnx_files import OnnxDamage

pytestmark = pytest.mark.onnxruntime


def test_a_variant_is_the_file_with_one_thing_changed_and_the_file_is_left_as_it_is(tmp_path):
    reference, _ = frozen("relu", 8, 8)
    BACKENDS.get("onnx").emit(reference, tmp_path)
    content = (tmp_path / "model.onnx").read_bytes()
    damage = OnnxDamage()
    by_name = {each.name: each for each in damage.variants(reference, tmp_path)}
    (changed,) = by_name["ir_version - 1"].files().values()
    assert onnx.load_model_from_string(changed).ir_version == onnx.load_model_from_string(content).ir_version - 1
    assert (tmp_path / "model.onnx").read_bytes() == content


def test_what_a_session_loads_depends_on_numbers_and_not_on_the_order_of_constants(tmp_path):
    reference, _ = frozen("relu", 8, 8)
    BACKENDS.get("onnx").emit(reference, tmp_path)
    damage = OnnxDamage()
    variants = list(damage.variants(reference, tmp_path))
    whole = damage.loaded(tmp_path)

    def loaded(variant):
        (content,) = variant.files().values()
        (tmp_path / "model.onnx").write_bytes(content)
        return damage.loaded(tmp_path)

    assert loaded(next(each for each in variants if "in reverse" in each.name)) == whole
    assert loaded(next(each for each in variants if each.kind == "weight")) != whole
