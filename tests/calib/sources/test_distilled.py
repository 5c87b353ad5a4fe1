"""Batches of distilled images: independent, seeded, and found again after an interruption."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from isobit.calib.sources import make
from isobit.calib.synthesis.distill import distillation_loss
from isobit.calib.synthesis.statistics import watched_network
from isobit.pipeline.stages import EpochLog, Quantized
from isobit.pipeline.watcher import Quiet
from tests.examples.units import CPU, net, recipe

SETS = ("images.source=distilled", "images.batch=4", "images.iterations=30")


class Stops(Quiet):
    """Interrupts when `after` batches are finished."""

    def __init__(self, after: int) -> None:
        self.left = after

    def epoch(self, log: EpochLog) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def quantized(*sets: str, bits: str = "mse_w8a8") -> Quantized:
    return net(recipe(bits, *SETS, *sets))[0]


def test_batches_know_nothing_of_each_other_and_the_last_is_smaller() -> None:
    few, many = (make(quantized(f"images.count={count}")) for count in (4, 10))
    assert many.images.shape == (10, 3, 8, 8) and many.labels is None
    assert torch.equal(many.images[:4], few.images)
    assert not torch.equal(many.images[4:8], few.images)
    assert [log.number for log in many.findings.epochs] == [1, 2, 3]
    assert set(many.findings.epochs[0].measured) == {"loss"}


def test_the_seed_decides_and_the_bits_do_not() -> None:
    one = make(quantized("images.count=4"))
    assert torch.equal(one.images, make(quantized("images.count=4", bits="nearest_w4a4")).images)
    assert not torch.equal(one.images, make(quantized("images.count=4", "seed=1")).images)


@pytest.mark.parametrize(
    "parameter", ["iterations=3", "learning_rate=0.01", "input=free", "precision=bfloat16", "batch=2"]
)
def test_every_parameter_changes_the_images(parameter: str) -> None:
    plain, changed = (make(quantized("images.count=4", *sets)).images for sets in ((), (f"images.{parameter}",)))
    assert not torch.equal(plain, changed)


def test_in_bfloat16_the_loss_falls_as_far() -> None:
    losses = []
    for precision in ("float32", "bfloat16"):
        made = quantized("images.count=4", "images.iterations=120", f"images.precision={precision}")
        images = make(made).images
        losses.append(float(distillation_loss(watched_network(made.graph, CPU, outputs=False), images, unit=True)))
    assert losses[1] == pytest.approx(losses[0], rel=0.25)


def test_an_interrupted_distillation_goes_on_after_its_last_batch(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("isobit.calib.training.finetune.SAVE_EVERY", 0.0)
    of = quantized("images.count=12")
    expected = make(of).images
    with pytest.raises(KeyboardInterrupt):
        make(of, progress=Stops(3), checkpoints=tmp_path)
    steps = []
    watcher = Quiet()
    watcher.step = steps.append
    assert torch.equal(make(of, progress=watcher, checkpoints=tmp_path, resume=True).images, expected)
    assert 0 < sum(steps) < 3 * 30
    steps.clear()
    assert torch.equal(make(of, progress=watcher, checkpoints=tmp_path, resume=True).images, expected)
    assert not steps  # finished: nothing is distilled again
    make(quantized("images.count=12", "seed=3"), progress=watcher, checkpoints=tmp_path, resume=True)
    assert sum(steps) == 3 * 30  # of another run nothing is taken
