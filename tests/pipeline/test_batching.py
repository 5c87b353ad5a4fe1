"""Batches keep to a budget of bytes, read off the shapes; what is held is measured, not believed."""

import weakref

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.batching import LARGEST_BATCH, batch_size, evaluation_batch, footprint, proof_batch
from pipeline.capture import capture


class Held(TorchDispatchMode):
    """Bytes of storages that were made inside and are alive, and the most there ever were."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._known = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        known = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves((args, kwargs)) if torch.is_tensor(leaf)}
        for leaf in tree_leaves(result):
            if torch.is_tensor(leaf) and leaf.untyped_storage().data_ptr() not in known | self._known:
                storage = leaf.untyped_storage()
                self._take(storage.data_ptr(), storage.nbytes(), storage)
        return result

    def _take(self, pointer, size, storage):
        self._known.add(pointer)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, pointer, size)

    def _drop(self, pointer, size):
        self._known.discard(pointer)
        self.now -= size


def chain(side=16):
    return capture(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval(),
                   torch.zeros(1, 3, side, side)).graph


def test_a_chain_holds_a_layer_s_input_and_output():
    found = footprint(chain())
    image = 16 * 16 * 4
    assert found.total == (3 + 8 + 8 + 4) * image and found.peak == 16 * image


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
