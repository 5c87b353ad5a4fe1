"""BRECQ: the released script's defaults, two passes, Fisher weighting, interruption in the second pass."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from isobit.calib.calibrate import calibrate
from isobit.calib.context import Calibration
from isobit.calib.methods.brecq import BRECQParameters, brecq
from isobit.calib.ranges.ranges import search_ranges_in_order, search_weight_ranges
from isobit.calib.reconstruction.reconstruct import Sweep, UnitTask, reconstruct
from isobit.calib.reconstruction.trainer import MakeObjective, Settings, UnitTrainer
from isobit.pipeline.quant.quantizer import Phase
from isobit.pipeline.stages import UnitLog
from tests.examples.tiny import quantized_net
from tests.examples.units import PAPER, Notes, calibrated, calibration, net, output_error, recipe, weight_of

UNITS = ["stem", "inner", "outer", "head"]
MINMAX = "activations.range=minmax"  # leaves learned scales something to improve
SMALL = {"steps": 40, "activation_steps": 20, "init_images": 16}


def test_defaults_are_the_released_scripts() -> None:
    parameters = BRECQParameters()
    weights, activations = parameters.weight_settings, parameters.activation_settings
    soft = weights.rounding.parameters
    assert (weights.steps, soft.learning_rate, soft.rounding_weight) == (20_000, 1e-3, 0.01)
    assert (soft.warmup, soft.beta_start, soft.beta_end, soft.descent) == (0.2, 20.0, 2.0, "linear")
    assert (weights.keep_prob, weights.scale_learning_rate, weights.sampler) == (1.0, 0.0, "permutation")
    assert (activations.steps, activations.scale_learning_rate) == (5_000, 4e-4)
    assert activations.rounding.kind.name == "nearest"
    assert (activations.keep_prob, activations.gradient_factor) == (1.0, False)
    assert (parameters.activation_exponent, parameters.init_images) == (2.4, 64)
    assert (parameters.fisher, parameters.skip_stem) == ("off", True)


@pytest.mark.parametrize("steps", [100, 5_000])
def test_each_passes_rate_follows_its_own_steps(steps: int) -> None:
    parameters = BRECQParameters(steps=2 * steps, activation_steps=steps)
    assert parameters.weight_settings.rounding.parameters.learning_rate * 2 * steps == pytest.approx(20.0)
    assert parameters.activation_settings.scale_learning_rate * steps == pytest.approx(2.0)


def test_two_passes_stand_in_the_log() -> None:
    made = calibration(recipe("brecq_w2a4"), ranges=False)
    logs = brecq(made, BRECQParameters(**SMALL))
    stages = ("weights", "activations")
    assert [(log.stage, log.name) for log in logs] == [(stage, name) for stage in stages for name in UNITS]
    assert [log.steps for log in logs[:4]] == [0, 40, 40, 40]
    # The classifier has no scale of its own but the pooled features', the stem is skipped.
    assert [log.steps for log in logs[4:7]] == [0, 20, 20]
    assert all(log.flipped == 0.0 == log.undecided for log in logs[4:])
    assert made.progress.trained == sum(log.steps for log in logs)


def test_better_than_nearest() -> None:
    of = recipe("brecq_w2a4", "method.init_images=48", steps=150)
    result = calibrated(of)
    first = [log for log in result.log if log.stage == "weights"]
    assert sum(log.loss_hard for log in first) < 0.8 * sum(log.loss_nearest for log in first)
    assert output_error(result) < 0.8 * output_error(calibrated(recipe("nearest_w2a4", f"policy={of.policy}")))


class Watching(Notes):
    """Notes, at every report of the first pass, which quantizers are on, and the stem's codes."""

    def watch(self, made: Calibration) -> None:
        self.made, self.phases, self.stem = made, set(), []

    def done(self, log: UnitLog) -> None:
        super().done(log)
        self.look(log.stage)

    def step(self, count: int) -> None:
        super().step(count)
        self.look("weights" if len(self.logs) < 4 else "activations")

    def look(self, stage: str) -> None:
        if stage == "weights":
            self.phases |= {quantizer.phase for quantizer in self.made.activations().values()}
        codes = self.made.weights()["conv2d_w"].codes
        self.stem.append(None if codes is None else codes.clone())


@pytest.mark.parametrize("name", ["tiny", "residual", "mobile"])
def test_the_first_pass_leaves_activations_float_and_the_stem_at_nearest(name: str) -> None:
    watcher = Watching()
    made = calibration(recipe("brecq_w2a4"), ranges=False, watcher=watcher, name=name, target=PAPER)
    watcher.watch(made)
    brecq(made, BRECQParameters(**SMALL))
    assert watcher.phases == {Phase.OFF}
    quantizer = made.weights()["conv2d_w"]
    codes, quantizer.codes = quantizer.codes, None
    nearest = quantizer.quantize(weight_of(made.graph, "conv2d_w")).int()
    assert torch.equal(codes, nearest) and len(watcher.stem) > 8
    assert all(seen is not None and torch.equal(seen, nearest) for seen in watcher.stem)


@pytest.mark.parametrize("name", ["residual", "mobile"])
def test_what_each_pass_trains_on(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The first on the prefix with rounded weights, the second on the float network's own values; targets are float."""
    seen: dict[str, list[bool]] = {"weights": [], "activations": []}

    class Noting(UnitTrainer):
        def __init__(self, task: UnitTask, settings: Settings, make_objective: MakeObjective | None = None) -> None:
            super().__init__(task, settings, make_objective)
            index = torch.arange(task.count)
            fed = self.objective.inputs(index)
            same = all(torch.equal(a, b.rows(index)) for a, b in zip(fed, task.float_inputs, strict=True))
            seen["weights" if settings.rounding.kind.name == "soft" else "activations"].append(same)
            (target,) = task.targets
            torch.testing.assert_close(
                task.teacher(*(value.rows(index) for value in task.float_inputs))[0], target.rows(index)
            )

    monkeypatch.setattr("isobit.calib.reconstruction.trainer.UnitTrainer", Noting)
    made = calibration(recipe("brecq_w2a4"), ranges=False, name=name, target=PAPER)
    brecq(made, BRECQParameters(**SMALL))
    assert len(seen["weights"]) == len(made.units) - 1 and not any(seen["weights"])
    assert seen["activations"] and all(seen["activations"])


def hardened(name: str) -> Calibration:
    """Before the second pass: weights decided, every activation range searched in order."""
    made = calibration(recipe("brecq_w4a2", MINMAX), ranges=False, name=name, target=PAPER)
    search_weight_ranges(made)
    for node, quantizer in made.weights().items():
        quantizer.harden(quantizer.quantize(weight_of(made.graph, node)))
    search_ranges_in_order(made, 32)
    return made


def learn_scales(made: Calibration, only: str | None = None) -> None:
    """The second pass, over all units or over one of them."""
    settings = BRECQParameters(activation_steps=60).activation_settings

    def trainer(task: UnitTask) -> UnitTrainer | None:
        wanted = bool(task.activations) and only in (None, task.unit.name)
        return UnitTrainer(task, settings) if wanted else None

    reconstruct(made, Sweep(60, stage="activations", inputs="teacher", exponent=2.4), trainer)


def scales_of(made: Calibration) -> torch.Tensor:
    return torch.stack([quantizer.scale for quantizer in made.activations().values()])


@pytest.mark.parametrize("name", ["residual", "mobile"])
def test_the_second_pass_touches_no_code_and_does_not_depend_on_the_order(name: str) -> None:
    """Inputs are the float network's, so units in any order get the same scales bit for bit.

    In the papers' world: on a target with int32 biases a layer's bias is rounded to a step that contains the scale in
    front of it, which may have been learned a moment ago or not.
    """
    forward, backward = hardened(name), hardened(name)
    start = scales_of(forward)
    codes = {node: quantizer.codes.clone() for node, quantizer in forward.weights().items()}
    learn_scales(forward)
    for unit in reversed(backward.units):
        learn_scales(backward, unit.name)
    assert torch.equal(scales_of(forward), scales_of(backward))
    assert int((scales_of(forward) != start).sum()) >= 2
    for node, quantizer in forward.weights().items():
        assert torch.equal(quantizer.codes, codes[node])


@pytest.mark.parametrize("skipped", [True, False])
def test_skip_stem_leaves_the_first_unit_at_nearest(skipped: bool) -> None:
    made = calibration(recipe("brecq_w2a4", "policy=none"), ranges=False)
    logs = brecq(made, BRECQParameters(**{**SMALL, "skip_stem": skipped, "steps": 150}))
    quantizer = made.weights()["conv2d_w"]
    codes, quantizer.codes = quantizer.codes, None
    nearest = quantizer.quantize(weight_of(made.graph, "conv2d_w"))
    assert torch.equal(codes, nearest.int()) == skipped
    assert (logs[0].steps == logs[4].steps == 0) == skipped


def codes(**changes: object) -> torch.Tensor:
    """Codes of a network whose answers differ from image to image, so that predictions have a gradient."""
    made = calibration(recipe("brecq_w2a4"), ranges=False)
    weight, bias = (made.graph.get_parameter(f"head.{name}").data for name in ("weight", "bias"))
    weight.mul_(200.0)
    with torch.no_grad():
        bias.sub_(made.graph(made.images).mean(0))
    logs = brecq(made, BRECQParameters(**{**SMALL, **changes}))
    assert all(torch.isfinite(torch.tensor(log.loss_hard)) for log in logs)
    return torch.cat([quantizer.codes.flatten() for quantizer in made.weights().values()])


def test_fisher_changes_the_rounding() -> None:
    """`off` -> `diag` -> `full`: three different losses, three different roundings."""
    plain, diagonal, full = codes(), codes(fisher="diag"), codes(fisher="full")
    assert not torch.equal(plain, diagonal) and not torch.equal(plain, full) and not torch.equal(diagonal, full)


class Chosen(nn.Module):
    """A map of classes, and the class of each position beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.classes = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.classes(self.stem(x).relu())
        return {"chosen": y.argmax(1), "classes": y}


@pytest.mark.parametrize("fisher", ["off", "diag", "full"])
def test_an_argmax_beside_a_float_output_is_calibrated(fisher: str) -> None:
    of = recipe("brecq_w4a4", f"method.fisher={fisher}", "method.activation_steps=2", "method.init_images=4",
                "images.batch_size=4", steps=3)
    quantized, images = quantized_net(PAPER, of, Chosen().eval(), torch.rand(8, 3, 8, 8))
    logs = calibrate(quantized, images).log
    assert logs and all(math.isfinite(log.loss_hard) for log in logs)


@pytest.mark.parametrize("changes", [{"activation_exponent": 2.0}, {"scale_learning_rate": 4e-5}, {"init_images": 48}])
def test_the_second_pass_follows_its_parameters(changes: dict[str, object]) -> None:
    scales = []
    for extra in ({}, changes):
        made = calibration(recipe("brecq_w4a2", MINMAX), ranges=False)
        brecq(made, BRECQParameters(**{**SMALL, "activation_steps": 60, **extra}))
        scales.append(torch.stack([quantizer.scale for quantizer in made.activations().values()]))
    assert not torch.equal(*scales)


@pytest.mark.parametrize("stop_at", [2, 4, 6, 7])
def test_resuming_is_bit_identical_in_either_pass(tmp_path: Path, stop_at: int) -> None:
    of = recipe("brecq_w2a2", "method.init_images=16", steps=30)
    quantized, images = net(of)
    expected = calibrate(quantized, images)
    with pytest.raises(KeyboardInterrupt):
        calibrate(quantized, images, progress=Notes(stop_at), checkpoints=tmp_path)
    watcher = Notes()
    resumed = calibrate(quantized, images, progress=watcher, checkpoints=tmp_path, resume=True)
    left, right = expected.graph.state_dict(), resumed.graph.state_dict()
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
    assert watcher.trained == sum(log.steps for log in expected.log[stop_at:]) and len(watcher.logs) == 8
