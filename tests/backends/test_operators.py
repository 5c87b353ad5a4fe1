"""Operators with integer kernels of their own, from the module to files that run: no code and no output differs."""

import numpy as np
import pytest
import torch

from isobit.pipeline.samples.network_inputs import run_graph, tensors
from tests.examples import operators, ports

TARGETS = ["reference", "c", pytest.param("tvm", marks=pytest.mark.tvm)]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", operators.NETWORKS)
def test_every_code_is_the_arithmetics(name, target, tmp_path):
    proven = operators.proven(name, target, tmp_path)
    for level in proven.report.levels:
        assert level.codes.compared > 0
        assert (level.codes.differing, level.unexplained, level.exact_differing) == (0, 0, 0)
    captured = proven.reference.quantized.captured
    wanted = run_graph(captured.graph, proven.x)
    for got, exact in zip(run_graph(lambda *x: proven.reference.evaluate(proven.x), proven.x), wanted, strict=True):
        if exact.is_floating_point():
            assert float((got - exact).abs().max()) < 0.1 * float(exact.abs().max())


@pytest.mark.parametrize("target", TARGETS[1:])
def test_inputs_keep_their_names_and_integers_stay_integers(target, tmp_path):
    model, x = operators.network("words")
    proven = operators.proven("words", target, tmp_path)
    backend = ports.BACKENDS.get(target)
    got = backend.open(tmp_path, backend.levels[0]).run(x)
    with torch.no_grad():
        wanted = model(*tensors(x)).numpy()
    assert np.abs(got["logits"] - wanted).max() < 0.1 * np.abs(wanted).max()
    assert proven.report.deployed.outputs.keys() == {"logits"}
