"""The step loop: first losses, regulariser, rates, mixing, masks, and what hardening leaves."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from isobit.calib.calibrate import calibrate
from isobit.calib.context import Calibration
from isobit.calib.methods.qdrop import QDropParameters
from isobit.calib.ranges.ranges import search_weight_ranges
from isobit.calib.reconstruction.boundary import Boundary
from isobit.calib.reconstruction.mixing import MaskSource
from isobit.calib.reconstruction.reconstruct import UnitTask
from isobit.calib.reconstruction.trainer import Settings, UnitTrainer
from isobit.calib.roundings import ROUNDINGS, ChosenRounding, choose_rounding, find_rounding
from isobit.calib.roundings.soft import SoftParameters, SoftRounding, regulariser
from isobit.pipeline.quant.grid import QParams
from tests.examples.tiny import quantized_net
from tests.examples.units import CPU, PAPER, Notes, answer, calibration, everything, net, recipe, task_at

SETTINGS = QDropParameters(steps=30).settings
find_rounding("soft")  # all are registered


def task_of(unit: int, *sets: str) -> tuple[UnitTask, Boundary]:
    """A unit before its training, everything before it rounded to nearest."""
    return task_at(calibration(recipe("qdrop_w4a4", *sets)), unit)


def soft_rounding(**parameters: float) -> ChosenRounding:
    return choose_rounding("soft", parameters)


def settings(**changes: object) -> Settings:
    return dataclasses.replace(SETTINGS, **changes)


def error(task: UnitTask) -> float:
    return float((answer(task) - task.targets[0].rows(slice(0, task.count))).square().mean())


def summed_error(task: UnitTask) -> float:
    """L_rec over all images: mean over images and positions, sum over channels."""
    return float((answer(task) - task.targets[0].rows(everything(task))).square().sum(1).mean())


@functools.cache
def toy_data() -> tuple[nn.Module, torch.Tensor]:
    """One 3x3 convolution, 16 -> 32 channels, and smooth inputs of four latent maps: strongly correlated channels."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1))
    model[0].weight.data = 0.137 * torch.randn(32, 16, 3, 3, generator=generator)  # the table's loss of nearest
    model[0].bias.data.zero_()
    latent, mixture = torch.randn(512, 4, 4, 4, generator=generator), torch.randn(16, 4, 1, 1, generator=generator)
    maps = F.avg_pool2d(F.conv2d(latent, mixture), 3, 1, 1, count_include_pad=False)
    return model, F.relu(2 * maps + 0.2 * torch.randn(512, 16, 4, 4, generator=generator))


def toy(bits: int) -> UnitTask:
    """The layer with its weight range, activations in float."""
    model, images = toy_data()
    of = recipe("adaround_w4a8", f"weights.bits={bits}", "policy=none", batch=32)
    quantized, _ = quantized_net(PAPER, of, model, images)
    made = Calibration(quantized.graph, quantized.units, images, of, CPU, Notes())
    search_weight_ranges(made)
    return task_at(made, 0)[0]


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the table of hard and soft losses."""

    nearest: float
    soft: float
    hard: float
    undecided: float
    flipped: float


@functools.cache
def row(bits: int, steps: int, rate: float) -> Row:
    task = toy(bits)
    task.harden_nearest()
    nearest = summed_error(task)
    for quantizer, _ in task.weights:
        quantizer.codes = None
    trainer = UnitTrainer(task, Settings(steps=steps, rounding=soft_rounding(learning_rate=rate)))
    trainer.train(lambda count: None)
    soft, undecided, flipped = summed_error(task), trainer.undecided(), trainer.flipped()
    trainer.harden()
    return Row(nearest, soft, summed_error(task), undecided, flipped)


ROWS = {  # the table's rows that run in seconds: nearest, undecided from ... to, flipped
    (4, 2000, 1e-2): (0.768, 0.0, 0.01, 0.137),
    (2, 2000, 1e-3): (17.16, 0.5, 0.65, 0.067),
    (2, 2000, 1e-2): (17.16, 0.04, 0.11, 0.133),
    (2, 5000, 4e-3): (17.16, 0.01, 0.08, 0.145),
}


@pytest.mark.parametrize(("bits", "steps", "rate"), ROWS)
def test_table_of_hard_and_soft(bits: int, steps: int, rate: float) -> None:
    """The toy is not the table's own (its seed is not written down): shares within a few points, losses in kind."""
    nearest, low, high, flipped = ROWS[bits, steps, rate]
    found = row(bits, steps, rate)
    assert found.nearest == pytest.approx(nearest, rel=0.05)
    assert low <= found.undecided <= high and found.flipped == pytest.approx(flipped, abs=0.05)
    assert found.hard < (0.3 if found.undecided < 0.1 else 0.6) * found.nearest


def test_hard_is_soft_as_nothing_is_undecided() -> None:
    """hard / soft falls with the undecided share, to 1; at 4 bits with rate * 0.8 * steps = 16 below 1 %."""
    ordered = sorted((row(*key) for key in ROWS), key=lambda found: found.undecided)
    ratios = [found.hard / found.soft for found in ordered]
    assert ratios == sorted(ratios)
    assert ratios[0] == pytest.approx(1.0, abs=0.02) and ordered[0].undecided < 0.01
    assert ratios[-1] > 4.0 and ordered[-1].undecided > 0.5
    assert row(4, 2000, 1e-2).undecided < 0.01  # rate * 0.8 * steps = 16


def test_fewer_steps_need_a_higher_rate() -> None:
    """alpha moves by about rate * steps: at a tenth of the reach most rounding stays open and hardening hurts."""
    short, scaled = row(2, 2000, 1e-3), row(2, 2000, 1e-2)
    assert short.soft < scaled.soft and short.hard > 2.0 * scaled.hard


def test_in_a_block_with_quantized_input() -> None:
    # 2 bits, input and output float: rounding alone.
    task, _ = task_of(2, "weights.bits=2", "name=rounding")
    for quantizer in (*task.activations, *task.inner):
        quantizer.attach(lambda x: x)
    task = dataclasses.replace(task, activations=(), inner=())
    nearest = error(task)
    trainer = UnitTrainer(task, QDropParameters(steps=400).settings)
    trainer.train(lambda count: None)
    soft = error(task)
    assert trainer.undecided() < 0.05 and trainer.flipped() > 0.02
    trainer.harden()
    hard = error(task)
    assert hard < 0.7 * nearest and hard < 1.5 * soft


@pytest.mark.parametrize("stretch", [1.0, 1.5])
def test_the_first_loss_is_clipping_error_only(stretch: float) -> None:
    """Activations in float: the untrained soft unit answers like one with its weights clipped, and none may be."""
    task = toy(4)
    ((quantizer, weight),) = task.weights
    quantizer.set_params(QParams(quantizer.scale * stretch, quantizer.zero_point))
    scale, zero_point = quantizer.aligned(weight)
    clipped = weight.clamp(-zero_point * scale, (15 - zero_point) * scale)
    rounding = SoftRounding(list(task.weights), SETTINGS.rounding.parameters, SETTINGS.steps)
    rounding.attach()
    rounding.refresh()
    torch.testing.assert_close(quantizer(weight), clipped, rtol=1e-5, atol=1e-6)
    images = task.inputs[0].rows(everything(task))
    expected = (F.conv2d(images, clipped - weight, padding=1)).square().sum(1).mean()
    assert summed_error(task) == pytest.approx(float(expected), rel=1e-3, abs=1e-9)
    assert bool((clipped == weight).all()) == (stretch > 1.0) and (summed_error(task) < 1e-9) == (stretch > 1.0)


def test_no_regulariser_before_its_turn_on() -> None:
    """During warm-up its weight changes nothing, bit for bit; at step w * T it does."""
    alphas = []
    for strength in (0.0, 1e3):
        rounding = soft_rounding(learning_rate=1e-2, rounding_weight=strength)
        trainer = UnitTrainer(toy(4), Settings(steps=100, rounding=rounding))
        trainer.rounding.attach()
        for regularised in trainer._regularised[:19]:
            trainer._step(regularised)
        before = trainer.rounding.alpha.detach().clone()
        trainer._step(trainer._regularised[19])
        alphas.append((before, trainer.rounding.alpha.detach().clone()))
    assert trainer._regularised == [False] * 19 + [True] * 81
    assert torch.equal(alphas[0][0], alphas[1][0]) and not torch.equal(alphas[0][1], alphas[1][1])


def test_what_the_regulariser_is_worth_at_turn_on() -> None:
    """1 - 1/21 of the weights for uniform fractions, less what warm-up already decided: 0.89 to 0.95."""
    trainer = UnitTrainer(toy(4), Settings(steps=2000, rounding=soft_rounding(learning_rate=1e-2)))
    trainer.rounding.attach()

    def worth() -> float:
        return float(regulariser(trainer.rounding.h, 20.0)) / trainer.rounding.h.numel()

    assert worth() == pytest.approx(1 - 1 / 21, abs=0.01)
    for regularised in trainer._regularised[:399]:
        trainer._step(regularised)
    assert 0.7 < worth() < 0.953


def test_rates_alpha_constant_scales_cosine_to_zero() -> None:
    task, _ = task_of(1)
    trainer = UnitTrainer(task, settings(steps=10, scale_learning_rate=0.01))
    trainer._attach()
    seen = []
    for _ in range(10):
        trainer._step(False)
        groups = [*trainer.rounding.optimiser.param_groups, *trainer.optimiser.param_groups]
        seen.append(tuple(float(group["lr"]) for group in groups))
    assert {rate for rate, _ in seen} == {SETTINGS.rounding.parameters.learning_rate}
    rate = [0.005 * (1 + math.cos(math.pi * step / 10)) for step in range(11)]  # of step T it would be 0
    assert [found for _, found in seen] == pytest.approx(rate[:10], rel=1e-5) and rate[10] == 0.0


def test_the_scales_schedule_leaves_alphas_rate_alone() -> None:
    """Whatever rate the scales have, alpha's first step is Adam's: its whole rate, in the same direction."""
    moves = []
    for scale_rate in (1e-6, 1e-1):
        task, _ = task_of(1)
        trainer = UnitTrainer(task, settings(steps=10, scale_learning_rate=scale_rate))
        start = trainer.rounding.alpha.detach().clone()
        trainer._attach()
        trainer._step(False)
        moves.append(trainer.rounding.alpha.detach() - start)
        assert trainer.rounding.optimiser.param_groups[0]["lr"] == SETTINGS.rounding.parameters.learning_rate
    assert torch.equal(*moves)
    assert float(moves[0].abs().max()) == pytest.approx(SETTINGS.rounding.parameters.learning_rate, rel=1e-3)


def at_the_start(task: UnitTask, keep: float) -> UnitTrainer:
    """A trainer that mixes and rounds softly, with no step taken; ranges so wide that nothing is clipped."""
    for quantizer, _ in task.weights:
        quantizer.set_params(QParams(quantizer.scale * 2, quantizer.zero_point))
    trainer = UnitTrainer(task, settings(keep_prob=keep))
    trainer._attach()
    trainer.rounding.refresh()
    return trainer


def fed(task: UnitTask, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return task.student(*inputs)[0]


@pytest.mark.parametrize(("name", "unit"), [("residual", 1), ("residual", 2), ("mobile", 2), ("tiny", 2)])
def test_keep_one_is_the_fully_quantized_unit_on_the_prefix(name: str, unit: int) -> None:
    task, _ = task_at(calibration(recipe("qdrop_w2a2"), name=name, target=PAPER), unit)
    trainer = at_the_start(task, 1.0)
    index = torch.arange(task.count)
    inputs = trainer.objective.inputs(index)
    assert all(torch.equal(a, b.rows(index)) for a, b in zip(inputs, task.inputs, strict=True))
    mixed = fed(task, inputs)
    trainer._attached.close()
    assert torch.equal(mixed, fed(task, inputs))


@pytest.mark.parametrize(("name", "unit"), [("residual", 1), ("residual", 2), ("mobile", 2), ("tiny", 2)])
def test_keep_zero_is_the_float_unit_on_the_teachers_values(name: str, unit: int) -> None:
    """Weights at their start and nothing clipped: the float network's output, to float32's precision."""
    task, _ = task_at(calibration(recipe("qdrop_w2a2"), name=name, target=PAPER), unit)
    trainer = at_the_start(task, 0.0)
    index = torch.arange(task.count)
    inputs = trainer.objective.inputs(index)
    assert all(torch.equal(a, b.rows(index)) for a, b in zip(inputs, task.teacher_inputs, strict=True))
    target = task.targets[0].rows(index)
    torch.testing.assert_close(fed(task, inputs), target, rtol=1e-4, atol=1e-4 * float(target.abs().max()))


def test_keep_zero_gives_no_gradient_to_scales_and_leaves_them_alone() -> None:
    task, _ = task_of(1)
    before = [float(quantizer.scale) for quantizer in task.activations]
    trainer = UnitTrainer(task, settings(keep_prob=0.0, scale_learning_rate=0.1))
    trainer._attach()
    trainer._step(False)
    assert not trainer._scales.grad.any() and trainer.learned
    trainer._attached.close()
    trainer.rounding.detach()
    UnitTrainer(task, settings(keep_prob=0.0, scale_learning_rate=0.1)).train(lambda count: None)
    assert [float(quantizer.scale) for quantizer in task.activations] == before


def test_masks_differ_between_steps_between_quantizers_and_from_the_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every mask of two steps, of a unit with a mixed input and several quantizers, agrees with any other by half."""
    drawn: list[torch.Tensor] = []
    draw = MaskSource.draw

    def note(self: MaskSource, like: torch.Tensor, keep: float) -> torch.Tensor:
        drawn.append(draw(self, like, keep))
        return drawn[-1]

    monkeypatch.setattr(MaskSource, "draw", note)
    task, _ = task_at(calibration(recipe("qdrop_w2a2"), name="residual", target=PAPER), 1)
    trainer = UnitTrainer(task, SETTINGS)
    trainer._attach()
    trainer._step(False)
    trainer._step(False)
    assert len(drawn) == 2 * (1 + len(task.activations)) == 6
    for mask in drawn:
        assert float(mask.mean()) == pytest.approx(0.5, abs=3 / math.sqrt(mask.numel()))
        flat = mask.permute(0, 2, 3, 1).reshape(-1, mask.shape[1])
        assert float(flat.std(0).min()) > 0.0 and float(mask.flatten(1).std(1).min()) > 0.0
    for a, b in itertools.combinations(drawn, 2):
        count = min(a.numel(), b.numel())
        same = (a.flatten()[:count] == b.flatten()[:count]).float().mean()
        assert float(same) == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(count))


def test_scales_move_and_stay_positive() -> None:
    task, _ = task_of(1)
    before = [float(quantizer.scale) for quantizer in task.activations]
    UnitTrainer(task, settings(scale_learning_rate=0.5)).train(lambda count: None)
    after = [float(quantizer.scale) for quantizer in task.activations]
    assert after != before and min(after) > 0.0


def test_nothing_random_is_left() -> None:
    task, _ = task_of(2)
    trainer = UnitTrainer(task, SETTINGS)
    trainer.train(lambda count: None)
    assert all(quantizer.stand_in is None for quantizer in (*task.activations, *task.inner))
    assert torch.equal(answer(task), answer(task))
    trainer.harden()
    assert all(quantizer.stand_in is None and quantizer.codes is not None for quantizer, _ in task.weights)
    assert not any(quantizer.scale.requires_grad for quantizer in task.activations)


@pytest.mark.parametrize("rounding", [*((k, {}) for k in ROUNDINGS.names()), ("soft", {"weight_scale_rate": 0.01})])
def test_an_interrupted_run_gives_every_quantizer_back(rounding: tuple[str, dict[str, float]]) -> None:
    task, _ = task_of(1)
    members = [*task.activations, *task.inner, *(quantizer for quantizer, _ in task.weights)]
    before, answered = [quantizer.scale.clone() for quantizer in members], answer(task)

    def stop(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        UnitTrainer(task, settings(rounding=choose_rounding(*rounding), scale_learning_rate=0.01)).train(stop)
    assert all(quantizer.stand_in is None and quantizer.codes is None for quantizer in members)
    assert all(torch.equal(quantizer.scale, scale) for quantizer, scale in zip(members, before, strict=True))
    assert torch.equal(answer(task), answered)


def test_all_steps_are_reported() -> None:
    counts: list[int] = []
    UnitTrainer(task_of(1)[0], settings(steps=47)).train(counts.append)
    assert sum(counts) == 47 and len(counts) > 1


def test_the_same_seed_gives_the_same_unit() -> None:
    codes = []
    for _ in range(2):
        task, _boundary = task_of(1)
        trainer = UnitTrainer(task, SETTINGS)
        trainer.train(lambda count: None)
        trainer.harden()
        codes.append((task.weights[0][0].codes, task.activations[0].scale))
    assert torch.equal(codes[0][0], codes[1][0]) and torch.equal(codes[0][1], codes[1][1])


def test_the_step_descends_the_stated_loss() -> None:
    """The gradient that reaches alpha and the scales is autograd's of loss and regulariser, for one fixed batch."""
    task, _ = task_of(1)
    still = dataclasses.replace(soft_rounding(), parameters=SoftParameters().scaled(0.0))
    trainer = UnitTrainer(task, settings(keep_prob=1.0, gradient_factor=False, rounding=still))
    trainer.rounding.attach()
    trainer._indices[:] = torch.arange(task.batch_size)
    trainer._step(False)
    index = torch.arange(task.batch_size)
    trainer.rounding.refresh()
    for leaf, quantizer in zip(trainer._leaves, trainer.learned, strict=True):
        quantizer.scale = leaf.detach().clone().requires_grad_()
    (output,) = task.student(*(value.rows(index) for value in task.inputs))
    loss = (output - task.targets[0].rows(index)).square().sum(1).mean()
    loss.backward()
    trainer.rounding.differentiate(0.0, None)
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
        monkeypatch.setattr("isobit.calib.reconstruction.trainer.EAGER_STEPS", eager_steps)
        quantized, images = net()
        results.append(calibrate(quantized, images, device="cuda").graph.state_dict())
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0] if name.endswith("codes"))
