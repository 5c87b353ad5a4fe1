"""The step loop: methods_reconstruction T9 (small), T11, T13 and T15."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from calib.boundary import Boundary, stretches
from calib.calibrate import calibrate
from calib.methods.qdrop import QDropParameters
from calib.reconstruct import UnitWork, unit_work
from calib.trainer import Settings, UnitTrainer
from tests.calib.nets import CPU, calibration, net, recipe

SETTINGS = QDropParameters(steps=30).settings


def work_of(unit: int, *sets: str) -> tuple[UnitWork, Boundary]:
    """A unit in front of its training, everything before it rounded to nearest."""
    made = calibration(recipe("qdrop_w4a4", *sets))
    boundary = Boundary(made.graph, made.images, CPU)
    path = stretches(made.graph, [u.nodes for u in made.units])
    for place, stretch in enumerate(path):
        boundary.run_teacher(stretch)
        if stretch.unit == unit:
            return unit_work(made, boundary, path, place, made.units[unit]), boundary
        boundary.run_student(stretch, keep=True)
        boundary.cross(stretch)
    raise AssertionError(f"no unit {unit}")


def settings(**changes: object) -> Settings:
    return dataclasses.replace(SETTINGS, **changes)


def answer(work: UnitWork) -> torch.Tensor:
    with torch.no_grad():
        return work.student(*(value.rows(slice(0, work.count)) for value in work.inputs))[0]


def error(work: UnitWork) -> float:
    return float((answer(work) - work.targets[0].rows(slice(0, work.count))).square().mean())


def test_T9_hard_is_far_better_than_nearest_and_close_to_soft() -> None:
    # 2 bits, input and output float: rounding alone.
    work, _ = work_of(2, "weights.bits=2", "name=rounding")
    for quantizer in (*work.activations, *work.inner):
        quantizer.mixing = lambda x: x
    work = dataclasses.replace(work, activations=(), inner=())
    nearest = error(work)
    trainer = UnitTrainer(work, QDropParameters(steps=400).settings)
    trainer.train(lambda count: None)
    soft = error(work)
    assert trainer.undecided() < 0.05 and trainer.flipped() > 0.02
    trainer.harden()
    hard = error(work)
    assert hard < 0.7 * nearest and hard < 1.5 * soft


def test_T11_rates_alpha_constant_scales_cosine_to_zero() -> None:
    work, _ = work_of(1)
    trainer = UnitTrainer(work, settings(steps=10, scale_learning_rate=0.01))
    trainer._attach()
    seen = []
    for _ in range(10):
        trainer._step(False)
        seen.append((trainer.optimiser.param_groups[0]["lr"], float(trainer.optimiser.param_groups[1]["lr"])))
    assert {rate for rate, _ in seen} == {SETTINGS.learning_rate}
    expected = [0.005 * (1 + math.cos(math.pi * step / 10)) for step in range(10)]
    assert [rate for _, rate in seen] == pytest.approx(expected, rel=1e-5)


def test_T13_keep_zero_leaves_the_scales_alone() -> None:
    work, _ = work_of(1)
    before = [float(quantizer.scale) for quantizer in work.activations]
    UnitTrainer(work, settings(keep_prob=0.0)).train(lambda count: None)
    assert [float(quantizer.scale) for quantizer in work.activations] == before


def test_scales_move_and_stay_positive() -> None:
    work, _ = work_of(1)
    before = [float(quantizer.scale) for quantizer in work.activations]
    UnitTrainer(work, settings(scale_learning_rate=0.5)).train(lambda count: None)
    after = [float(quantizer.scale) for quantizer in work.activations]
    assert after != before and min(after) > 0.0


def test_T15_nothing_random_is_left() -> None:
    work, _ = work_of(2)
    trainer = UnitTrainer(work, SETTINGS)
    trainer.train(lambda count: None)
    assert all(quantizer.mixing is None for quantizer in (*work.activations, *work.inner))
    assert torch.equal(answer(work), answer(work))
    trainer.harden()
    assert all(quantizer.rounding is None and quantizer.codes is not None for quantizer, _ in work.weights)
    assert not any(quantizer.scale.requires_grad for quantizer in work.activations)


def test_an_interrupted_run_leaves_no_mixture_behind() -> None:
    work, _ = work_of(1)

    def stop(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        UnitTrainer(work, SETTINGS).train(stop)
    assert all(quantizer.mixing is None for quantizer in work.activations)


def test_all_steps_are_reported() -> None:
    counts: list[int] = []
    UnitTrainer(work_of(1)[0], settings(steps=47)).train(counts.append)
    assert sum(counts) == 47 and len(counts) > 1


def test_the_same_seed_gives_the_same_unit() -> None:
    codes = []
    for _ in range(2):
        work, _boundary = work_of(1)
        trainer = UnitTrainer(work, SETTINGS)
        trainer.train(lambda count: None)
        trainer.harden()
        codes.append((work.weights[0][0].codes, work.activations[0].scale))
    assert torch.equal(codes[0][0], codes[1][0]) and torch.equal(codes[0][1], codes[1][1])


def test_the_step_descends_the_stated_loss() -> None:
    """The gradient that reaches alpha and the scales is autograd's of loss and regulariser, for one fixed batch."""
    work, _ = work_of(1)
    trainer = UnitTrainer(work, settings(keep_prob=1.0, gradient_factor=False, learning_rate=0.0))
    trainer.rounding.attach()
    trainer._indices[:] = torch.arange(work.batch_size)
    trainer._step(False)
    index = torch.arange(work.batch_size)
    trainer.rounding.refresh()
    for leaf, quantizer in zip(trainer._leaves, trainer.learned, strict=True):
        quantizer.scale = leaf.detach().clone().requires_grad_()
    (output,) = work.student(*(value.rows(index) for value in work.inputs))
    loss = (output - work.targets[0].rows(index)).square().sum(1).mean()
    loss.backward()
    trainer.rounding.collect(0.0, None)
    expected = trainer.rounding.alpha.grad.clone()
    trainer._cursor.zero_()
    for quantizer in trainer.learned:
        quantizer.scale = quantizer.scale.detach()
    trainer._step(False)
    assert torch.allclose(trainer.rounding.alpha.grad, expected, rtol=1e-3, atol=1e-6)
    assert float(expected.abs().max()) > 0.0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: records the step as a CUDA graph")
def test_a_recorded_step_does_what_the_eager_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for eager_steps in (3, 10**9):
        monkeypatch.setattr("calib.trainer.EAGER_STEPS", eager_steps)
        quantized, images = net()
        results.append(calibrate(quantized, images, device="cuda").graph.state_dict())
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0] if name.endswith("codes"))
