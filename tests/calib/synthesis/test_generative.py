"""Generator and student in turns: who trains when, on what, and that a stopped run gives the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from isobit.calib.checkpoints import UnitCheckpoints
from isobit.calib.context import Calibration
from isobit.calib.ranges.averages import averaged_inputs
from isobit.calib.synthesis.generative import GenerativeParameters, GenerativeTraining, run
from isobit.calib.synthesis.generator import GeneratedBatch, GeneratorTrainer, gdfq_loss
from isobit.calib.training.tracking import TrackedRange
from isobit.pipeline.graph.quantized_tensors import quantizers
from tests.calib.training.test_finetune import Told
from tests.examples.units import CPU, net, recipe

FEW = {"epochs": 4, "steps": 3, "range_epochs": 1, "warmup_epochs": 2, "learning_rate": 1e-2, "precision": "float32"}


class Plain:
    """GDFQ's loss, the images as they are."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []
        self.rates: list[tuple[int, int]] = []

    def generator_loss(self, generated: GeneratedBatch, trainer: GeneratorTrainer, epoch: int) -> Tensor:
        return gdfq_loss(generated, trainer.running)

    def student_batch(self, generated: GeneratedBatch, trainer: GeneratorTrainer) -> tuple[Tensor, Tensor, Tensor]:
        self.seen.append(generated.images.detach())
        return generated.images.detach(), generated.labels, generated.logits.detach()

    def student_rate(self, epoch: int, step: int) -> float:
        self.rates.append((epoch, step))
        return 1e-2

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing."""


def calibration(folder: Path | None = None, resume: bool = False) -> Calibration:
    quantized, images = net(recipe("qdrop_w4a4", "policy=none"), name="residual")
    store = None if folder is None else UnitCheckpoints(folder, "key")
    classes = quantized.captured.num_classes
    return Calibration(
        quantized.graph, quantized.units, images[:0], quantized.recipe, CPU, Told(), store, resume, classes=classes
    )


def weights(training: GenerativeTraining) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in training.student.parameters()]


def test_the_student_waits_until_the_generator_is_warm() -> None:
    """Tests 15 and 16: bit-identical before, every parameter moved after; ranges follow in the first epochs only."""
    at = calibration()
    training = GenerativeTraining(at, GenerativeParameters(**FEW), Plain(), 40.0)
    start = weights(training)
    teacher = {name: value.clone() for name, value in at.graph.named_parameters()}
    ranges: list[list[float]] = []
    for epoch in range(3):
        training.begin(epoch)
        for _ in range(3):
            training.step()
        same = [torch.equal(a, b) for a, b in zip(start, weights(training), strict=True)]
        assert all(same) if epoch < 2 else not any(same)
        ranges.append([float(s.ends()[1]) for s in training.student.sites.values() if isinstance(s, TrackedRange)])
    assert all(high > 0 for high in ranges[0]) and ranges[0] == ranges[1] == ranges[2]
    assert all(torch.equal(value, teacher[name]) for name, value in at.graph.named_parameters())


def test_an_average_has_the_range_of_what_is_averaged_unless_told_otherwise() -> None:
    ends = {}
    for averages in ("input", "own"):
        at = calibration()
        training = GenerativeTraining(at, GenerativeParameters(**FEW, averages=averages), Plain(), 40.0)
        training.begin(0)
        training.step()
        ((average, source),) = averaged_inputs(at.graph, at.target).items()
        ends[averages] = [float(training.student.activation(part).ends()[1]) for part in (average, source)]
    own, averaged = ends["input"]
    assert own == averaged == ends["own"][1] and ends["own"][0] < 0.8 * averaged


def test_the_student_sees_images_made_before_the_generators_step() -> None:
    paper = Plain()
    training = GenerativeTraining(calibration(), GenerativeParameters(**FEW), paper, 40.0)
    noise = training.trainer.random.get_state()
    training.begin(2)
    with torch.no_grad():
        expected = training.trainer.draw().images
    training.trainer.random.set_state(noise)
    training.step()
    torch.testing.assert_close(paper.seen[0], expected, rtol=1e-4, atol=1e-4)
    assert paper.rates == [(2, 0)]


def test_a_run_fills_every_quantizer_and_shows_its_images() -> None:
    at = calibration()
    run(at, GenerativeParameters(**FEW), Plain(), 40.0)
    assert all(quantizer.scale is not None for quantizer in quantizers(at.graph).values())
    assert at.findings.images.shape == (64, *at.shape) and "generated images" in at.findings.notes[0]
    assert [log.number for log in at.findings.epochs] == [1, 2, 3, 4]
    assert "student" not in at.findings.epochs[1].measured and "student" in at.findings.epochs[2].measured


@pytest.mark.parametrize("stop", [1, 3])
def test_a_stopped_run_gives_the_same_numbers(stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isobit.calib.training.finetune.SAVE_EVERY", 0.0)
    whole = calibration()
    run(whole, GenerativeParameters(**FEW), Plain(), 40.0)
    begin = GenerativeTraining.begin

    def stopping(training: GenerativeTraining, epoch: int) -> None:
        if epoch == stop:
            raise KeyboardInterrupt
        begin(training, epoch)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(GenerativeTraining, "begin", stopping)
        run(calibration(tmp_path), GenerativeParameters(**FEW), Plain(), 40.0)
    rest = calibration(tmp_path, resume=True)
    run(rest, GenerativeParameters(**FEW), Plain(), 40.0)
    for one, other in zip(quantizers(whole.graph).values(), quantizers(rest.graph).values(), strict=True):
        assert torch.equal(one.scale, other.scale)
        assert one.codes is None or torch.equal(one.codes, other.codes)
