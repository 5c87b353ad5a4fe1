"""The network-wise finish: the prediction comes nearer, what helps nobody is not taken, and it can be resumed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from isobit import passes
from isobit.backends import reference
from isobit.backends.onnx.target import TARGETS
from isobit.calib.calibrate import calibrate
from isobit.calib.checkpoints import UnitCheckpoints
from isobit.calib.context import Calibration
from isobit.calib.cost import Cost, facts_of
from isobit.calib.ranges.ranges import round_weights, search_ranges
from isobit.calib.reconstruction.losses import prediction_loss
from isobit.calib.reconstruction.predictions import FloatPredictions, float_predictions
from isobit.calib.training.finish import Teacher, epochs, finish, finish_cost, for_method, kept_out
from isobit.calib.training.variables import TrainedNetwork
from isobit.pipeline.recipe.schema import FinishRule
from isobit.pipeline.stages import Calibrated
from tests.examples import nets
from tests.examples.tiny import quantized_net
from tests.examples.units import CPU, Notes, detector_calibration, recipe, responsive
from tests.passes import plans


class Epochs(Notes):
    """Remembers what training tells."""

    def training(self, epochs: int, steps: int) -> None:
        self.total, self.steps = epochs, steps

    def epoch(self, log: object) -> None:
        self.logs.append(log)


SCALES = {"rate": 5e-3, "what": ("scales", "biases"), "augment": (), "features": 0.0}


FEW_BITS = {"rate": 1e-2, "what": ("scales", "biases", "rounding")}


def rule(steps: int, **changes: object) -> FinishRule:
    """As the recipes at 2 and 3 bits have it."""
    return FinishRule(steps=steps, **FEW_BITS | changes)


def with_batch(made: Calibration, size: int) -> Calibration:
    images = made.recipe.images.model_copy(update={"batch_size": size})
    return dataclasses.replace(made, recipe=made.recipe.model_copy(update={"images": images}))


def run(made: Calibration, of: FinishRule, teacher: Teacher | None = None) -> None:
    finish(made, of, teacher or Teacher(made, of))


def rounded(bits: str = "minmax_w3a3") -> tuple[Calibration, FloatPredictions]:
    """A residual network rounded to nearest, and the float network's predictions."""
    quantized, images = responsive(recipe(bits), TARGETS["generic"])
    made = Calibration(quantized.graph, quantized.units, images, quantized.recipe, CPU, Epochs())
    answers = Teacher(made, rule(1)).predictions
    search_ranges(made)
    round_weights(made)
    return with_batch(made, 16), answers


def codes(made: Calibration) -> list[torch.Tensor]:
    return [quantizer.decided.clone() for quantizer in made.weights().values()]


@torch.no_grad()
def error(made: Calibration, answers: FloatPredictions) -> float:
    (reference,) = answers.values.values()
    return float((made.graph(made.images) - reference).square().mean())


def test_the_prediction_comes_nearer_with_the_same_codes() -> None:
    made, answers = rounded()
    before, held = error(made, answers), codes(made)
    run(made, rule(60, **SCALES))
    assert error(made, answers) < 0.8 * before
    assert all(torch.equal(*pair) for pair in zip(held, codes(made), strict=True))
    (note,) = made.findings.notes
    assert "6 samples kept out" in note and "not taken" not in note
    assert made.progress.trained == 60 and len(made.progress.logs) == made.progress.total == 8


def test_learned_rounding_alone_helps_and_goes_to_a_code_next_to_the_weight() -> None:
    made, _ = rounded()
    held = codes(made)
    run(made, rule(60, **SCALES | {"what": ("rounding",)}))
    assert made.progress.logs[-1].measured["loss"] < 0.8 * made.progress.logs[0].measured["loss"]
    moved = torch.cat([(old - new).abs().flatten() for old, new in zip(held, codes(made), strict=True)])
    assert int(moved.count_nonzero()) > 0 and int(moved.max()) == 1


def lowest(made: Calibration) -> float:
    return min(log.measured["kept out"] for log in made.progress.logs)


@pytest.mark.parametrize(("part", "kept"), [("rounding", "scale"), ("scales", "codes"), ("biases", "codes")])
def test_only_what_is_asked_for_is_learned(part: str, kept: str) -> None:
    made, _ = rounded()
    before = {name: value.clone() for name, value in made.graph.state_dict().items()}
    run(made, rule(20, what=(part,), augment=()))
    after = made.graph.state_dict()
    changed = {name.rpartition(".")[2] for name, value in before.items() if not torch.equal(value, after[name])}
    assert kept not in changed and changed and "zero_point" not in changed
    assert ({"scales": "scale", "rounding": "codes"}.get(part) or "bias") in changed


def test_what_makes_the_samples_kept_out_worse_is_not_taken() -> None:
    made, _ = rounded()
    before = {name: value.clone() for name, value in made.graph.state_dict().items()}
    run(made, rule(3, **SCALES | {"rate": 1.0}))
    assert made.findings.notes[0].endswith("not taken; a lower one may gain (3 steps)")
    after = made.graph.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize(("count", "kept"), [(48, 6), (24, 4), (6, 3)])
def test_few_samples_are_not_judged_by_one(count: int, kept: int) -> None:
    made, _ = rounded()
    run(with_batch(dataclasses.replace(made, images=made.images[:count]), 4), rule(2))
    assert f"on {kept} samples kept out" in made.findings.notes[0]


@pytest.mark.parametrize("what", [("scales", "biases"), ("scales", "biases", "rounding")])
def test_what_is_trained_is_what_the_graph_computes_afterwards(what: tuple[str, ...]) -> None:
    made, answers = rounded()
    kept, _ = kept_out(made)
    run(made, rule(10, rate=5e-3, what=what, augment=()))
    with torch.no_grad():
        found = made.graph(made.images[kept])
    (reference,) = answers.values.values()
    settled = float(prediction_loss(found, reference[kept], rule(1).temperature))
    assert settled == pytest.approx(lowest(made), rel=1e-3)
    assert f"to {lowest(made):.4g}" in made.findings.notes[0]


@pytest.mark.parametrize("augment", [("mix",), ("shift", "flip"), ("noise", "mix")])
def test_made_samples_train_and_judge_too(augment: tuple[str, ...]) -> None:
    made, answers = rounded()
    before = error(made, answers)
    run(made, rule(30, rate=5e-3, augment=augment))
    plain, _ = rounded()
    run(plain, rule(30, rate=5e-3, augment=()))
    assert error(made, answers) < 0.8 * before
    assert made.progress.logs[0].measured != plain.progress.logs[0].measured


def test_what_units_hand_on_comes_nearer_where_it_counts() -> None:
    errors = []
    for features in (0.0, 100.0):
        made, _ = rounded()
        settings = rule(40, rate=5e-3, features=features, augment=())
        teacher = Teacher(made, rule(40, features=1.0))
        run(made, settings)
        network = TrainedNetwork(made, settings, teacher.names)
        with torch.no_grad():
            found = network.answers(made.images)
            errors.append(float(teacher.loss(found, made.images, True) - teacher.loss(found, made.images, False)))
    assert errors[1] < 0.9 * errors[0]


def test_the_float_network_answers_as_it_was_before_biases_were_corrected() -> None:
    made, _ = rounded()
    teacher = Teacher(made, rule(1))
    with torch.no_grad():
        for name, values in made.graph.named_parameters():
            if name.endswith("bias"):
                values.add_(1.0)
    assert float(teacher.loss(teacher.predictions.values, made.images, whole=False)) == pytest.approx(0.0, abs=1e-6)


def test_an_interrupted_finish_goes_on_where_it_stopped(tmp_path: Path) -> None:
    whole, _ = rounded()
    run(whole, rule(12))

    class Stopped(Epochs):
        def epoch(self, log: object) -> None:
            super().epoch(log)
            if len(self.logs) == 3:
                raise KeyboardInterrupt

    store = UnitCheckpoints.of(tmp_path, {"run": "this"})
    cut, _ = rounded()
    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("isobit.calib.training.finetune.SAVE_EVERY", 0.0)
        run(dataclasses.replace(cut, checkpoints=store, progress=Stopped()), rule(12))
    resumed, _ = rounded()
    resumed = dataclasses.replace(resumed, checkpoints=store, resume=True)
    run(resumed, rule(12))
    assert resumed.progress.trained == 12 - 2 * 2  # two of six epochs were kept
    found = resumed.graph.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in whole.graph.state_dict().items())
    assert resumed.findings.notes == whole.findings.notes


@pytest.mark.parametrize("name", ["plain", "ssd", "yolo8"])
@pytest.mark.parametrize("loss", ["predictions", "outputs"])
def test_a_detector_is_trained_by_its_predictions_before_they_are_decoded(name: str, loss: str) -> None:
    made = with_batch(dataclasses.replace(detector_calibration(name, recipe("minmax_w3a3")), progress=Epochs()), 8)
    settings = rule(20, rate=5e-3, loss=loss)
    teacher = Teacher(made, settings)
    round_weights(made)
    run(made, settings, teacher)
    assert made.progress.logs[-1].measured["loss"] < made.progress.logs[0].measured["loss"]
    assert "not taken" not in made.findings.notes[-1]


def test_several_outputs_and_a_target_without_integer_biases() -> None:
    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (torch.nn.Conv2d(n, 4, 3, padding=1) for n in (3, 4, 4))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = torch.relu(self.a(x))
            return self.b(y), self.c(y)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, images = Two().eval(), torch.randn(32, 3, 8, 8)
    quantized, _ = quantized_net(reference.TARGET, recipe("minmax_w3a3"), model, images)
    made = Calibration(quantized.graph, quantized.units, images, quantized.recipe, CPU, Epochs())
    made = with_batch(made, 16)
    answers = Teacher(made, rule(20)).predictions
    wanted = list(answers.values.values())
    search_ranges(made)
    round_weights(made)

    def distance() -> float:
        with torch.no_grad():
            return sum(
                float((got - reference).square().sum() / reference.square().sum())
                for got, reference in zip(made.graph(images), wanted, strict=True)
            )

    before = distance()
    run(made, rule(40, **SCALES | {"rate": 1e-3}))
    assert distance() < before
    frozen, _ = passes.legalize(Calibrated(made.graph, quantized, (), made.findings))
    assert frozen.graph(images)[0].shape == wanted[0].shape


def test_answers_are_those_of_their_outputs_whatever_is_computed_first() -> None:
    def late_first(m, x):
        early = m.a(x)
        return m.b(torch.relu(early))[:, :2], early

    captured, images = nets.captured_of(plans.Call(late_first), 3, 6, 6)
    quantized = passes.quantize(captured, recipe("minmax_w8a8"), TARGETS["generic"])
    made = Calibration(quantized.graph, quantized.units, images, quantized.recipe, CPU, Epochs())
    values = float_predictions(made, None).values
    with torch.no_grad():
        wanted = captured.graph(images)
    for node, answer in zip(quantized.calls.outputs, wanted, strict=True):
        found = [value for value in values.values() if value.shape == answer.shape and torch.allclose(value, answer)]
        assert found, node.name


def test_a_method_never_sees_the_samples_that_judge_but_where_they_are_needed_for_a_batch() -> None:
    made, _ = rounded()
    judging, trained = kept_out(made)
    assert sorted([*judging, *trained]) == [*range(48)]
    assert torch.equal(for_method(made).images, made.images[torch.from_numpy(trained)])
    assert for_method(with_batch(made, 42)).count == 42 and for_method(with_batch(made, 43)).count == 48


@pytest.mark.parametrize(("steps", "count", "length"), [(1, 1, 1), (8, 8, 1), (12, 6, 2), (307, 8, 39), (500, 8, 63)])
def test_rounds_are_at_most_eight_whatever_the_steps(steps: int, count: int, length: int) -> None:
    assert epochs(steps) == (count, length)
    assert (count - 1) * length < steps <= count * length


def test_a_loss_that_is_no_longer_finite_ends_training_and_the_best_round_is_taken() -> None:
    made, answers = rounded()
    before = error(made, answers)
    settings = rule(32, **SCALES)
    teacher = Teacher(made, settings)
    calls, loss = [], teacher.loss

    def breaks(*given: object) -> torch.Tensor:
        calls.append(given)
        return loss(*given) * (float("nan") if len(calls) > 30 else 1.0)

    teacher.loss = breaks  # type: ignore[method-assign]
    run(made, settings, teacher)
    assert error(made, answers) < before
    assert "the loss was no longer finite after" in made.findings.notes[0] and len(made.progress.logs) == 8


def test_one_sample_is_not_enough_and_that_is_said() -> None:
    made, _ = rounded()
    run(with_batch(made.only(torch.tensor([0])), 1), rule(3))
    assert made.findings.notes == ["finish: not run, one sample cannot both train and judge"]


def test_the_memory_for_evaluation_changes_no_number() -> None:
    found = []
    for batch in (2, 64):
        made, _ = rounded()
        made = dataclasses.replace(made, batch=batch)
        run(made, rule(8))
        found.append(made.graph.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_its_cost_counts_steps_the_float_network_and_the_looks_at_what_is_kept_out() -> None:
    quantized, _ = responsive(recipe("minmax_w3a3"), TARGETS["generic"])
    facts = dataclasses.replace(facts_of(quantized, 64), batch=4)
    assert finish_cost(rule(0), facts) == Cost()
    assert finish_cost(rule(8, augment=()), facts).macs == facts.network.macs * (8 * 4 * 4 + 9 * 8 * 2)
    assert finish_cost(rule(8), facts).macs == facts.network.macs * (8 * 4 * 4 + 9 * 8 * 3 * 2)


def test_a_finish_with_other_numbers_begins_anew_and_keeps_the_units(tmp_path: Path) -> None:
    """What units depend on is whether a finish keeps samples from them."""
    _, images = responsive(recipe("minmax_w3a3"), TARGETS["generic"])

    def trained(steps: int, finished: int, resume: bool = True) -> tuple[int, int]:
        """(steps made in units, in the finish)"""
        edits = (f"method.steps={steps}", f"finish.steps={finished}", "images.batch_size=8")
        network, _ = responsive(recipe("qdrop-finish_w3a3", *edits), TARGETS["generic"])
        seen = Epochs()
        found = calibrate(network, images, checkpoints=tmp_path, resume=resume, progress=seen)
        last = sum(log.steps for log in found.findings.epochs)
        return seen.trained - last, last

    assert trained(2, 4, resume=False) == (2 * 4, 4)
    assert trained(2, 6) == (0, 6)
    assert trained(2, 0) == (2 * 4, 0)
    assert trained(3, 6) == (3 * 4, 6)
