"""DMBQ on a tiny network: it learns, its bits come down to the recipe's, and what it trains is what is deployed."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from isobit import passes
from isobit.calib.calibrate import calibrate
from isobit.calib.context import Calibration
from isobit.calib.methods import find_method
from isobit.calib.methods.dmbq import DmbqParameters, DmbqTraining
from isobit.pipeline.errors import CalibrationError
from isobit.pipeline.graph.nodes import is_constant, quantizer_of
from isobit.pipeline.recipe.schema import MethodChoice, Recipe
from isobit.pipeline.stages import Calibrated
from tests.examples.tiny import multibit_recipe
from tests.examples.units import CPU, Notes, responsive

FEW = {"start_epochs": 1, "epochs": 4, "learning_rate": 1e-2, "pad": 1, "window": 0.75}


def of(**changes: Any) -> Recipe:
    base = multibit_recipe("images.batch_size=16")
    return base.model_copy(update={"method": MethodChoice(name="dmbq", parameters={**FEW, **changes})})


def trained(recipe: Recipe | None = None, **changes: Any) -> tuple[Calibrated, torch.Tensor, torch.Tensor]:
    quantized, images = responsive(recipe or of(**changes))
    with torch.no_grad():
        labels = quantized.teacher(images).argmax(1)
    return calibrate(quantized, images, labels=labels), images, labels


def averages(result: Calibrated) -> dict[str, float]:
    found: dict[str, list[tuple[float, int]]] = {"weights": [], "activations": []}
    for node in result.graph.graph.nodes:
        quantizer = quantizer_of(result.graph, node)
        if quantizer is not None and quantizer.channel_bits is not None:
            shape = quantizer.codes.shape if is_constant(node) else node.meta["shape"]
            size = torch.Size(shape[1:] if is_constant(node) else shape[2:]).numel()
            key = "weights" if is_constant(node) else "activations"
            found[key].append((float(quantizer.channel_bits.sum()) * size, quantizer.channel_bits.numel() * size))
    return {key: sum(b for b, _ in rows) / sum(n for _, n in rows) for key, rows in found.items()}


def test_defaults_are_the_authors_second_version() -> None:
    _, found = find_method(MethodChoice(name="dmbq"))
    assert isinstance(found, DmbqParameters)
    assert (found.start_epochs, found.epochs, found.learning_rate, found.milestones) == (300, 300, 0.05, (0.5, 0.75))
    assert (found.window, found.table, found.norm, found.distillation) == (0.5, "laplace", "train", 0.0)


def test_bits_come_down_to_the_recipes_average_and_stay() -> None:
    """Test 28."""
    result, _, _ = trained()
    epochs = [log.measured for log in result.findings.epochs]
    for name, key in (("W bits", "weights"), ("A bits", "activations")):
        training = [measured[name] for measured in epochs]
        assert training[0] == 4.0 and all(a >= b for a, b in itertools.pairwise(training))
        assert training[-1] == training[-2] <= 2.0
        assert averages(result)[key] == pytest.approx(training[-1])
    assert any("bits on average" in note for note in result.findings.notes)


def test_what_is_trained_is_what_is_frozen() -> None:
    result, images, labels = trained()
    reference, projected = passes.legalize(result)
    with torch.no_grad():
        agreed = float((reference.evaluate(images).argmax(1) == labels).float().mean())
        calibrated = float((result.graph(images).argmax(1) == labels).float().mean())
    assert not projected and abs(agreed - calibrated) < 0.1


def test_training_pays() -> None:
    """Against the same network whose rate is too small to move anything."""
    right = []
    for rate in (1e-9, 1e-2):
        result, images, labels = trained(learning_rate=rate, epochs=10)
        with torch.no_grad():
            right.append(float((result.graph(images).argmax(1) == labels).float().mean()))
    assert right[1] > right[0]


def test_bits_that_are_not_allocated_are_the_recipes_from_the_start() -> None:
    """Test 30."""
    result, _, _ = trained(weight_groups="none", activation_groups="none", start_epochs=0, epochs=1)
    assert averages(result) == {"weights": 2.0, "activations": 2.0}


@pytest.mark.parametrize(
    "change",
    [{"table": "cifar"}, {"clip": 1.0}, {"norm": "frozen"}, {"pad": 0}, {"flip": False}, {"weight_groups": "layer"},
     {"activation_groups": "layer"}, {"tolerance": 1.0}, {"window": 0.25}, {"start_epochs": 0}, {"weight_decay": 0.1},
     {"milestones": [0.25]}, {"distillation": 1.0}],
    ids=str,
)
def test_every_parameter_makes_a_difference(change: dict[str, Any]) -> None:
    one, images, _ = trained(epochs=2)
    other, _, _ = trained(**{"epochs": 2, **change})
    with torch.no_grad():
        assert not torch.equal(one.graph(images), other.graph(images))


def test_a_stopped_course_goes_on_the_same() -> None:
    quantized, images = responsive(of())
    labels = torch.arange(len(images)) % quantized.captured.num_classes
    def training() -> DmbqTraining:
        at = Calibration(quantized.graph, quantized.units, images, quantized.recipe, CPU, Notes(), labels=labels,
                         classes=quantized.captured.num_classes)
        return DmbqTraining(at, DmbqParameters(**FEW))

    def epochs(made: DmbqTraining, first: int, last: int) -> None:
        for epoch in range(first, last):
            made.begin(epoch)
            for _ in range(made.steps):
                made.step()
            made.end(epoch)

    whole, half, rest = training(), training(), training()
    epochs(whole, 0, 4)
    epochs(half, 0, 2)
    rest.restore(half.state())
    epochs(rest, 2, 4)
    for one, other in zip(whole.student.state_dict().values(), rest.student.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_labels_are_needed() -> None:
    quantized, images = responsive(of())
    with pytest.raises(CalibrationError, match="labels"):
        calibrate(quantized, images)
