"""A set of a trained generator's images: labelled, seeded, found again after an interruption."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from isobit.calib.sources import SyntheticImages, make
from isobit.pipeline.stages import Quantized
from isobit.pipeline.watcher import Quiet
from tests.examples.units import net, recipe

SETS = ("images.source=generated", "images.batch=8", "images.iterations=200", "images.count=20",
        "images.precision=float32")


def quantized(*sets: str) -> Quantized:
    return net(recipe("mse_w8a8", *SETS, *sets))[0]


@pytest.fixture(scope="module")
def plain() -> SyntheticImages:
    return make(quantized())


def test_images_have_the_moments_of_normalised_inputs_and_the_labels_that_were_ordered(plain: SyntheticImages) -> None:
    assert plain.images.shape == (20, 3, 8, 8) and plain.labels.shape == (20,)
    assert set(plain.labels.tolist()) <= set(range(5)) and len(set(plain.labels.tolist())) > 2
    assert float(plain.images.mean()) == pytest.approx(0.0, abs=0.1)
    assert float(plain.images.std()) == pytest.approx(1.0, abs=0.1)
    epochs = plain.findings.epochs
    assert len(epochs) == 2 and epochs[1].measured["generator"] < epochs[0].measured["generator"]
    assert "into the class that was ordered" in plain.findings.notes[0]


@pytest.fixture(scope="module")
def short() -> SyntheticImages:
    return make(quantized("images.iterations=100"))


@pytest.mark.parametrize("change", ["images.conditioning=norm", "images.learning_rate=0.01", "images.batch=4", "seed=1",
                                    "images.statistics_weight=1.0", "images.input=free", "images.precision=bfloat16"])
def test_every_parameter_changes_the_images(short: SyntheticImages, change: str) -> None:
    assert not torch.equal(make(quantized("images.iterations=100", change)).images, short.images)


def test_more_iterations_are_more_epochs_of_the_report(plain: SyntheticImages, short: SyntheticImages) -> None:
    assert len(short.findings.epochs) == 1 and not torch.equal(short.images, plain.images)


def test_a_finished_training_is_not_run_again(plain: SyntheticImages, tmp_path: Path) -> None:
    make(quantized(), checkpoints=tmp_path)
    steps, watcher = [], Quiet()
    watcher.step = steps.append
    again = make(quantized(), progress=watcher, checkpoints=tmp_path, resume=True)
    assert not steps and torch.equal(again.images, plain.images) and torch.equal(again.labels, plain.labels)
