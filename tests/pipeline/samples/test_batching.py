"""Batches keep to a budget of bytes, read off the shapes; what is held is measured, not believed."""

import pytest
import torch
from torch import nn

from isobit.backends.execution.exact import ExactArithmetic
from isobit.backends.onnx.arithmetic import IntegerArithmetic
from isobit.backends.onnx.target import TARGETS
from isobit.pipeline.capture.capture import capture
from isobit.pipeline.proof.parity import compare
from isobit.pipeline.samples.batching import (
    LARGEST_BATCH,
    batch_size,
    evaluation_batch,
    footprint,
    plan_memory,
    proof_batch,
)
from tests.examples.held import Held
from tests.examples.tiny import frozen_reference


def chain(side=16):
    return capture(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval(),
                   torch.zeros(1, 3, side, side)).graph


def test_a_chain_holds_a_layer_s_input_and_output():
    found = footprint(chain())
    image = 16 * 16 * 4
    assert found.total == (3 + 8 + 8 + 4) * image and found.peak == 16 * image


@pytest.mark.parametrize("batch", [1, 8])
def test_a_forward_pass_holds_no_more_than_its_footprint(batch):
    graph, images = chain(64), torch.zeros(batch, 3, 64, 64)
    found = footprint(graph)
    with torch.no_grad(), Held() as held:
        graph(images)
    # The input itself was there before.
    assert found.peak * batch / 2 < held.peak + images.nbytes <= found.forward * batch


def test_a_skip_is_held_until_it_is_read():
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return x + self.conv(self.conv(x))

    assert footprint(capture(Skip().eval(), torch.zeros(1, 4, 5, 5)).graph).peak == 3 * 4 * 25 * 4


@pytest.mark.parametrize(
    ("sample", "budget", "expected"),
    [(100, 6400, 64), (100, 6399, 32), (100, 100, 1), (100, 1, 1), (0, 1, 1), (1, 10**9, LARGEST_BATCH)],
)
def test_a_batch_is_the_largest_power_of_two_that_fits(sample, budget, expected):
    assert batch_size(sample, budget) == expected


def test_a_budget_divides_batches_and_small_networks_keep_theirs():
    graph = chain()
    assert evaluation_batch(graph) == proof_batch(graph) == LARGEST_BATCH
    assert evaluation_batch(graph, 4 * footprint(graph).peak * 8) == 8
    assert proof_batch(graph, footprint(graph).proof * 5) == 4
    assert proof_batch(chain(1024)) == 1  # tensors of a sample fill the cache


def test_the_plan_says_batches_and_budget():
    plan = plan_memory(chain(), 5e8)
    assert "64 images at once in calibration and 64 in the proof keep to 0.5 GB" in plan.text
    assert plan.to_json() == {"budget_bytes": 500_000_000, "calibration_batch": 64, "proof_batch": 64}


def test_the_proof_keeps_to_the_budget():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1, groups=64), nn.ReLU(),
        nn.Conv2d(64, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    ).eval()
    images = torch.randn(16, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    reference, _ = frozen_reference(TARGETS["generic"], model=model, images=images)
    arithmetic, exact, graph = IntegerArithmetic(reference), ExactArithmetic(reference), reference.graph
    budget = 4 * footprint(graph).proof
    assert proof_batch(graph, budget) == 4

    def peak(batch):
        stages = {name: lambda x: graph(x) for name in ("float", "calibrated")}
        parts = [(part, None) for part in images.split(batch)]
        with torch.no_grad(), Held() as held:
            report = compare(parts, stages, arithmetic, {"all": arithmetic}, gated=["all"], exact=exact)
        assert report.samples == 16 and report.deployed.codes.differing == 0
        return held.peak

    assert peak(4) < budget < peak(16)
