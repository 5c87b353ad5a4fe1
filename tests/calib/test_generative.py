"""Generator and student in turns: who trains when, on what, and that a stopped run gives the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from calib.averages import averaged_inputs
from calib.checkpoints import UnitCheckpoints
from calib.context import Calibration
from calib.generative import GenerativeCourse, GenerativeParameters, run
from calib.generator import Forge, Judged, gdfq_loss
from calib.tracking import TrackedRange
from pipeline.graph import quantizers
from tests.calib.nets import CPU, net, recipe
from tests.calib.test_finetune import Told

FEW = {"epochs": 4, "steps": 3, "range_epochs": 1, "warmup_epochs": 2, "learning_rate": 1e-2, "precision": "float32"}


class Plain:
    """GDFQ's loss, the images as they are."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []
        self.rates: list[tuple[int, int]] = []

    def generator_loss(self, judged: Judged, forge: Forge, epoch: int) -> Tensor:
        return gdfq_loss(judged, forge.running)

    def student_batch(self, judged: Judged, forge: Forge) -> tuple[Tensor, Tensor, Tensor]:
        self.seen.append(judged.images.detach())
        return judged.images.detach(), judged.labels, judged.logits.detach()

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


def weights(course: GenerativeCourse) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in course.student.parameters()]


def test_the_student_waits_until_the_generator_is_warm() -> None:
    """Tests 15 and 16: bit-identical before, every parameter moved after; ranges follow in the first epochs only."""
    at = calibration()
    course = GenerativeCourse(at, GenerativeParameters(**FEW), Plain(), 40.0)
    start = weights(course)
    teacher = {name: value.clone() for name, value in at.graph.named_parameters()}
    ranges: list[list[float]] = []
    for epoch in range(3):
        course.begin(epoch)
        for _ in range(3):
            course.step()
        same = [torch.equal(a, b) for a, b in zip(start, weights(course), strict=True)]
        assert all(same) if epoch < 2 else not any(same)
        ranges.append([float(s.ends()[1]) for s in course.student.sites.values() if isinstance(s, TrackedRange)])
    assert all(high > 0 for high in ranges[0]) and ranges[0] == ranges[1] == ranges[2]
    assert all(torch.equal(value, teacher[name]) for name, value in at.graph.named_parameters())


def test_an_average_has_the_range_of_what_is_averaged_unless_told_otherwise() -> None:
    ends = {}
    for averages in ("input", "own"):
        at = calibration()
        course = GenerativeCourse(at, GenerativeParameters(**FEW, averages=averages), Plain(), 40.0)
        course.begin(0)
        course.step()
        ((average, source),) = averaged_inputs(at.graph).items()
        ends[averages] = [float(course.student.activation(part).ends()[1]) for part in (average, source)]
    own, averaged = ends["input"]
    assert own == averaged == ends["own"][1] and ends["own"][0] < 0.8 * averaged


def test_the_student_sees_images_made_before_the_generators_step() -> None:
    paper = Plain()
    course = GenerativeCourse(calibration(), GenerativeParameters(**FEW), paper, 40.0)
    noise = course.forge.random.get_state()
    course.begin(2)
    with torch.no_grad():
        expected = course.forge.draw().images
    course.forge.random.set_state(noise)
    course.step()
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
    monkeypatch.setattr("calib.finetune.SAVE_EVERY", 0.0)
    whole = calibration()
    run(whole, GenerativeParameters(**FEW), Plain(), 40.0)
    begin = GenerativeCourse.begin

    def stopping(course: GenerativeCourse, epoch: int) -> None:
        if epoch == stop:
            raise KeyboardInterrupt
        begin(course, epoch)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(GenerativeCourse, "begin", stopping)
        run(calibration(tmp_path), GenerativeParameters(**FEW), Plain(), 40.0)
    rest = calibration(tmp_path, resume=True)
    run(rest, GenerativeParameters(**FEW), Plain(), 40.0)
    for one, other in zip(quantizers(whole.graph).values(), quantizers(rest.graph).values(), strict=True):
        assert torch.equal(one.scale, other.scale)
        assert one.codes is None or torch.equal(one.codes, other.codes)
