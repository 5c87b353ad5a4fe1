"""Stages are values: frozen, and every earlier one stays runnable."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from isobit.backends.onnx.target import TARGETS
from isobit.pipeline.graph.quantized_tensors import quantizers
from isobit.pipeline.quant.quantizer import Phase
from tests.examples import nets, tiny


@pytest.fixture(scope="module")
def chain():
    reference, x = tiny.frozen_reference(TARGETS["generic"])
    return reference, x


def test_stages_are_frozen(chain):
    for stage in (chain[0], chain[0].quantized, chain[0].quantized.captured, chain[0].quantized.units[0]):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(stage, dataclasses.fields(stage)[0].name, None)


def test_evaluation_in_float64_leaves_the_reference_as_it_is(chain):
    reference, x = chain
    before = nets.run(reference.graph, x)
    exact = reference.evaluate(x)
    assert exact.dtype == torch.float64 and not exact.requires_grad
    assert reference.evaluate(x, torch.float32).dtype == torch.float32
    assert torch.equal(nets.run(reference.graph, x), before)
    assert all(q.scale.dtype == torch.float32 for q in quantizers(reference.graph).values())


def test_float64_does_not_depend_on_the_batch(chain):
    reference, x = chain
    alone = torch.cat([reference.evaluate(row[None]) for row in x])
    torch.testing.assert_close(reference.evaluate(x), alone, rtol=0, atol=1e-12)


def test_earlier_stages_stay_runnable(chain):
    reference, x = chain
    quantized = reference.quantized
    model, _ = tiny.model_and_images()
    assert torch.equal(nets.run(quantized.captured.graph, x), nets.run(model, x))
    torch.testing.assert_close(nets.run(quantized.teacher, x), nets.run(model, x), rtol=1e-5, atol=1e-5)
    assert {q.phase for q in quantizers(reference.graph).values()} == {Phase.FROZEN}
    assert Phase.FROZEN not in {q.phase for q in quantizers(quantized.graph).values()}
