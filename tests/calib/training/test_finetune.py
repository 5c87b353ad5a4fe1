"""The training engine: epochs in order, reports that are averages, and a run that goes on where it stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from isobit.calib.checkpoints import UnitCheckpoints
from isobit.calib.context import Calibration
from isobit.calib.training.finetune import milestone_factor, set_rate, share_right, student_loss, train
from isobit.pipeline.errors import CalibrationError
from isobit.pipeline.stages import EpochLog
from tests.examples.units import CPU, Notes, net


class Count:
    """A training that counts its steps and can be stopped at the beginning of an epoch."""

    def __init__(self, stop_at: int | None = None, broken: bool = False) -> None:
        self.value, self.begun, self.stop_at, self.broken = 0, [], stop_at, broken

    def begin(self, epoch: int) -> None:
        if epoch == self.stop_at:
            raise KeyboardInterrupt
        self.begun.append(epoch)

    def step(self) -> dict[str, float]:
        self.value += 1
        return {"value": float("nan") if self.broken else float(self.value)}

    def end(self, epoch: int) -> dict[str, float]:
        return {"last": float(self.value)}

    def state(self) -> dict[str, Any]:
        return {"value": torch.tensor(self.value)}

    def restore(self, state: dict[str, Any]) -> None:
        self.value = int(state["value"])


class Told(Notes):
    """A watcher of epochs."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[EpochLog] = []

    def training(self, epochs: int, steps: int) -> None:
        self.total, self.steps = epochs, steps

    def epoch(self, log: EpochLog) -> None:
        self.epochs.append(log)


def calibration(folder: Path | None = None, resume: bool = False, watcher: Told | None = None) -> Calibration:
    quantized, images = net()
    store = None if folder is None else UnitCheckpoints(folder, "key")
    return Calibration(
        quantized.graph, quantized.units, images, quantized.recipe, CPU, watcher or Told(), store, resume
    )


def test_epochs_run_in_order_and_report_averages() -> None:
    training, watcher = Count(), Told()
    at = calibration(watcher=watcher)
    train(at, training, 3, 4)
    assert training.begun == [0, 1, 2] and (watcher.total, watcher.steps, watcher.trained) == (3, 4, 12)
    assert watcher.epochs == at.findings.epochs
    assert [log.number for log in watcher.epochs] == [1, 2, 3]
    assert watcher.epochs[1].measured == {"value": 6.5, "last": 8.0} and watcher.epochs[1].steps == 4


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isobit.calib.training.finetune.SAVE_EVERY", 0.0)
    with pytest.raises(KeyboardInterrupt):
        train(calibration(tmp_path), Count(stop_at=2), 4, 3)
    training, watcher = Count(), Told()
    train(calibration(tmp_path, resume=True, watcher=watcher), training, 4, 3)
    assert training.begun == [2, 3] and training.value == 12
    assert [log.measured["last"] for log in watcher.epochs] == [3.0, 6.0, 9.0, 12.0]


def test_without_resume_it_starts_anew_and_another_run_finds_nothing(tmp_path: Path) -> None:
    train(calibration(tmp_path), Count(), 2, 3)
    training = Count()
    train(calibration(tmp_path), training, 2, 3)
    assert training.begun == [0, 1]
    assert UnitCheckpoints(tmp_path, "other").load_training() is None
    (tmp_path / "key" / "training.pt").write_bytes(b"half a file")
    assert UnitCheckpoints(tmp_path, "key").load_training() is None


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    with pytest.raises(CalibrationError, match="not finite after epoch 1"):
        train(calibration(), Count(broken=True), 2, 2)


def test_milestones_are_the_papers() -> None:
    """Test 16: 100, 200 and 300 of 400 epochs."""
    factors = [milestone_factor(epoch, 400) for epoch in (99, 100, 199, 200, 299, 300)]
    assert factors == pytest.approx([1, 0.1, 0.1, 0.01, 0.01, 0.001])


def test_student_loss_is_cross_entropy_and_weighted_divergence() -> None:
    """Test 14: the divergence is summed over classes and averaged over images; no gradient for the teacher."""
    logits, teacher = torch.randn(6, 5, requires_grad=True), torch.randn(6, 5, requires_grad=True)
    labels = torch.randint(5, (6,))
    found = student_loss(logits, labels, teacher, 40.0, 20.0)
    p, q = torch.softmax(teacher.detach() / 20, 1), torch.softmax(logits / 20, 1)
    expected = -torch.log_softmax(logits, 1)[torch.arange(6), labels].mean() + 40 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    found.backward()
    assert teacher.grad is None and float(logits.grad.abs().max()) > 0


def test_the_divergence_has_a_gradient_of_its_own() -> None:
    """The third open question of the unofficial GDFQ: there the distillation loss had none."""
    logits, teacher = torch.randn(6, 5, requires_grad=True), torch.randn(6, 5)
    labels = torch.randint(5, (6,))
    plain, distilled = (
        torch.autograd.grad(student_loss(logits, labels, teacher, weight, 20.0), logits)[0] for weight in (0.0, 40.0)
    )
    assert float((plain - distilled).abs().max()) > 1e-3


def test_small_helpers() -> None:
    logits = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert share_right(logits, torch.tensor([0, 1])) == 0.5
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    set_rate(optimiser, 0.25)
    assert optimiser.param_groups[0]["lr"] == 0.25
