"""`predict.py` of a C artifact: the model is compiled here and gives what the artifact's session gives."""

import ast
from pathlib import Path

import numpy as np

from isobit.backends.c import device_predictor
from isobit.backends.c.device_predictor import open_model
from isobit.backends.c.session import CSession
from isobit.backends.device.standalone import write_predictor
from isobit.pipeline.proof.parity import LOGITS
from tests.backends.c.compiled import needs_gcc, write_artifact
from tests.examples import programs


@needs_gcc
def test_the_compiled_network_gives_the_sessions_logits(tmp_path):
    program = programs.every_step(4)
    folder = write_artifact(program, tmp_path)
    infer = open_model(folder, "input")
    x = np.random.default_rng(0).normal(size=(2, *program.input.nchw)).astype(np.float32)
    wanted = CSession(folder, "O2").run(x)[LOGITS]
    for row in range(2):  # one library serves any number of pictures
        assert np.array_equal(infer(x[row:row + 1])[LOGITS], wanted[row:row + 1])


def test_the_script_keeps_to_old_syntax(tmp_path):
    write_predictor(tmp_path, Path(device_predictor.__file__))
    ast.parse((tmp_path / "predict.py").read_text(), feature_version=(3, 8))
    assert "isobit." not in (tmp_path / "predict.py").read_text()
