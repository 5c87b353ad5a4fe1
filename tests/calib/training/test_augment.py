"""Samples made of samples: in shape and order of the given ones, by chance, and never integers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from isobit.calib.training.augment import augmented

KINDS = ("mix", "shift", "flip", "noise")


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(16, 5), (16, 3, 24), (16, 3, 16, 24)])
def test_a_batch_keeps_its_shape_and_a_seed_its_samples(kind: str, shape: tuple[int, ...]) -> None:
    x = drawn(*shape)
    once, again, other = (augmented(x, [kind], np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert once.shape == x.shape and once.dtype == x.dtype and torch.equal(once, again)
    changes = kind in ("mix", "noise") or (kind == "shift" and len(shape) > 2) or len(shape) == 4
    assert torch.equal(once, x) != changes and torch.equal(once, other) != changes


def test_a_mixture_is_mostly_one_sample_and_half_of_them_stay() -> None:
    x = torch.eye(64)
    made = augmented(x, ["mix"], np.random.default_rng(0))
    own = made.diagonal()
    assert 16 < int((own == 1.0).sum()) < 48 and float(own.min()) >= 0.5
    assert torch.allclose(made.sum(1), torch.ones(64))


def test_a_shift_repeats_the_edge_and_a_flip_mirrors() -> None:
    x = torch.arange(16.0).expand(8, 1, 1, 16).contiguous()
    moved = augmented(x, ["shift"], np.random.default_rng(0))
    for line in moved[:, 0, 0]:
        distance = int(line[8]) - 8
        assert abs(distance) <= 2
        assert torch.equal(line, (torch.arange(16.0) + distance).clamp(0, 15))
    mirrored = augmented(x, ["flip"], np.random.default_rng(0))
    kinds = {tuple(line.tolist()) for line in mirrored[:, 0, 0]}
    assert kinds == {tuple(range(16)), tuple(reversed(range(16)))}


def test_integers_stay_and_each_input_of_several_is_changed() -> None:
    x, numbers = drawn(8, 4), torch.arange(8)
    found, same = augmented((x, numbers), KINDS, np.random.default_rng(0))
    assert torch.equal(numbers, same) and not torch.equal(x, found)


def test_channels_last_stays_channels_last() -> None:
    x = drawn(4, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    for kind in KINDS:
        assert augmented(x, [kind], np.random.default_rng(0)).is_contiguous(memory_format=torch.channels_last), kind
