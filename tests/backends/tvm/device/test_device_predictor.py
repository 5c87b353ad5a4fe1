"""`predict.py` of a TVM artifact: the module gives what the artifact's session gives."""

import ast
from pathlib import Path

import numpy as np
import pytest

from isobit.backends.device.standalone import write_predictor
from isobit.backends.tvm.device import device_predictor
from isobit.backends.tvm.device.device_predictor import open_model
from isobit.backends.tvm.session import NativeSession
from isobit.pipeline.proof.parity import LOGITS

pytestmark = pytest.mark.tvm


def test_the_module_gives_the_sessions_logits(native):
    session = NativeSession(native)  # loads the compiler's runtime first, as only one may be in a process
    x = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)
    assert np.array_equal(open_model(native, "input")(x)[LOGITS], session.run(x)[LOGITS])


def test_the_script_keeps_to_old_syntax(tmp_path):
    write_predictor(tmp_path, Path(device_predictor.__file__))
    ast.parse((tmp_path / "predict.py").read_text(), feature_version=(3, 8))
    assert "isobit." not in (tmp_path / "predict.py").read_text()


def test_no_part_of_the_script_takes_the_place_of_another(tmp_path):
    write_predictor(tmp_path, Path(device_predictor.__file__))
    module = ast.parse((tmp_path / "predict.py").read_text())
    names = [node.name for node in module.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert sorted(names) == sorted(set(names))
    assert [type(node) for node in module.body[-1:]] == [ast.If]
    assert (tmp_path / "predict.py").read_text().count('if __name__ == "__main__":\n    sys.exit(') == 1
