"""The zoo's networks: each small one runs on its own samples."""

from __future__ import annotations

import pytest
import torch

from tools.check.networks import NETWORKS

OUTPUTS = {
    "gru": (2, 12), "lstm": (2, 12), "conv1d": (2, 10), "unet": (2, 2, 32, 32), "two_inputs": (2, 5), "tokens": (2, 4),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_network_answers_to_its_samples(name):
    network = NETWORKS[name]
    samples = [torch.from_numpy(x) for x in network.samples(2, 32).values()]
    with torch.no_grad():
        assert network.lively(32)(*samples).shape == OUTPUTS[name]


def test_a_dict_of_outputs_has_their_names():
    network = NETWORKS["dict_output"]
    with torch.no_grad():
        found = network.lively(32)(torch.from_numpy(network.samples(2, 32)[""]))
    assert {name: tuple(value.shape) for name, value in found.items()} == {"classes": (2, 5), "map": (2, 1, 32, 32)}


def test_batch_norms_have_the_statistics_of_a_batch():
    model = NETWORKS["conv1d"].lively()
    assert not model.training and float(model.body[1].running_var.std()) > 0
