"""The yardsticks: shapes and sizes are those of MLPerf Tiny."""

import pytest
import torch

from tools.instructions.networks import YARDSTICKS, model_of, samples_of


def network(name):
    return model_of(name).module


@pytest.mark.parametrize(("name", "weights", "classes"), [
    ("ds_cnn_mlperf_tiny", 64 * 40 + 4 * (64 * 9 + 64 * 64) + 64 * 12, 12),
    ("resnet8_mlperf_tiny",
     16 * 27 + 9 * (2 * 16 * 16 + 32 * (16 + 32) + 64 * (32 + 64)) + 16 * 32 + 32 * 64 + 64 * 10, 10),
])
def test_a_network_has_the_weights_of_the_benchmark(name, weights, classes):
    model = network(name)
    assert sum(each.numel() for key, each in model.named_parameters() if each.dim() > 1) == weights
    with torch.no_grad():
        logits = model(torch.zeros(2, *YARDSTICKS[name].shape))
    assert logits.shape == (2, classes)


def test_the_maps_of_the_ds_cnn_are_those_of_the_benchmark():
    with torch.no_grad():
        assert network("ds_cnn_mlperf_tiny")[:-3](torch.zeros(1, 1, 49, 10)).shape == (1, 64, 25, 5)


def test_weights_and_samples_are_the_same_each_time():
    first, second = (torch.cat([each.flatten() for each in network("resnet8_mlperf_tiny").parameters()])
                     for _ in range(2))
    assert torch.equal(first, second)
    first, second = (next(iter(samples_of("ds_cnn_mlperf_tiny")))[0] for _ in range(2))
    assert torch.equal(first, second) and first.std() > 0.9
