"""The exact evaluation gives the codes that hand-made integers give, and does not depend on the batch."""

import numpy as np
import pytest
import torch
from torch import nn

from isobit.backends.execution.exact import ExactArithmetic, _CodeRecorder
from isobit.backends.onnx.target import TARGETS
from isobit.pipeline.capture.capture import capture
from isobit.pipeline.graph.nodes import quantizer_of
from tests.examples.tiny import frozen_reference


def test_codes_are_the_rounded_values_of_the_frozen_graph():
    reference, images = frozen_reference(TARGETS["generic"])
    results = ExactArithmetic(reference).run(images)
    graph = reference.graph
    node = next(n for n in graph.graph.nodes if n.name == "x_q")
    quantizer = quantizer_of(graph, node)
    expected = torch.round(images.double() / quantizer.scale.double()) + quantizer.zero_point
    assert np.array_equal(results["x_q"], expected.clamp(0, 255).to(torch.uint8).numpy())
    assert np.allclose(results["logits"], reference.evaluate(images).float().numpy(), rtol=0, atol=0)


def test_every_activation_quantizer_is_reported_in_execution_order_and_within_its_grid():
    reference, images = frozen_reference(TARGETS["generic"])
    results = ExactArithmetic(reference).run(images)
    assert list(results) == ["x_q", "relu_q", "relu_1_q", "conv2d_2_q", "relu_2_q", "mean_dim_q", "logits"]
    assert results["relu_1_q"].max() == 15 and results["conv2d_2_q"].max() > 15


def test_a_sample_has_the_same_codes_alone_and_in_a_batch():
    reference, images = frozen_reference(TARGETS["generic"])
    together, alone = ExactArithmetic(reference).run(images), ExactArithmetic(reference).run(images[3:4])
    assert all(np.array_equal(together[name][3:4], alone[name]) for name in together)


@pytest.mark.parametrize("options", [
    {}, {"padding": 1}, {"padding": (2, 0), "stride": (2, 3)}, {"dilation": 2, "padding": "same"},
    {"out_channels": 12, "bias": False}, {"kernel_size": (5, 1), "stride": 2},
])  # fmt: skip
def test_depthwise_convolutions_tap_by_tap_are_convolutions(options):
    torch.manual_seed(0)
    options = {"out_channels": 6, "kernel_size": 3, **options}
    model = nn.Conv2d(6, groups=6, **options).eval()
    images = torch.randn(3, 6, 12, 11, dtype=torch.float64)
    graph = capture(model, images[:1].float()).graph.double()
    with torch.no_grad():
        assert torch.allclose(_CodeRecorder(graph).run(images), model.double()(images), rtol=0, atol=1e-13)
