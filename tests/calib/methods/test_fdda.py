"""FDDA: centres of single images, the generator's five terms, and batches half real and half generated."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from isobit.calib.calibrate import calibrate
from isobit.calib.context import Calibration
from isobit.calib.methods import find_method
from isobit.calib.methods.fdda import Fdda, FddaParameters, distorted, find_centres, first_aligned
from isobit.calib.synthesis.generator import GeneratorTrainer, make_generator
from isobit.calib.synthesis.statistics import Statistics, alignment_loss, watched_network
from isobit.pipeline.errors import CalibrationError
from isobit.pipeline.recipe.schema import MethodChoice
from tests.calib.training.test_finetune import Told
from tests.examples.units import CPU, recipe, responsive

FEW = {"epochs": 3, "steps": 2, "range_epochs": 1, "warmup_epochs": 1, "rate_period": 2, "trust_epochs": 1,
       "precision": "float32", "crop": 0.5, "real_images": 2}


def parameters(**changes: Any) -> FddaParameters:
    return FddaParameters(**{**FEW, **changes})


def calibration() -> Calibration:
    """One image a class, its label what the float network says, but for the last class, which it gets wrong."""
    quantized, images = responsive(recipe("qdrop_w4a4", "policy=none"))
    with torch.no_grad():
        answers = quantized.teacher(images).argmax(1)
    classes = quantized.captured.num_classes
    chosen = {int(label): place for place, label in enumerate(answers)}
    assert len(chosen) > 2
    labels = torch.tensor(sorted(chosen))
    places = [chosen[int(label)] for label in labels]
    wrong = labels[-1].clone()
    places[-1] = chosen[int(labels[0])]
    assert int(answers[places[-1]]) != int(wrong)
    return Calibration(
        quantized.graph, quantized.units, images[places], quantized.recipe, CPU, Told(), labels=labels, classes=classes
    )


def paper(at: Calibration | None = None, **changes: Any) -> tuple[Fdda, GeneratorTrainer]:
    at = at or calibration()
    chosen = parameters(**changes)
    generator = make_generator(at.shape, at.classes, "norm", 0, CPU)
    trainer = GeneratorTrainer(generator, watched_network(at.graph, CPU), at.classes, 8, 1e-3, 0, "float32", CPU)
    return Fdda(at, chosen), trainer


def test_defaults_are_the_authors() -> None:
    """Tests 20 and 21."""
    _, found = find_method(MethodChoice(name="fdda"))
    weights = (found.label_weight, found.statistics_weight, found.class_label_weight, found.distorted_weight,
               found.centralised_weight)
    assert weights == (0.5, 0.2, 0.5, 0.9, 0.01)
    assert (found.distillation * found.temperature**2, found.real_images, found.tracking) == (8000.0, 16, "ema_raw")
    assert (found.epochs, found.steps, found.warmup_epochs, found.learning_rate) == (400, 200, 50, 1e-6)


@pytest.mark.parametrize(("norms", "start"), [(20, 8), (27, 12), (52, 24), (53, 25), (1, 0)])
def test_the_deep_half(norms: int, start: int) -> None:
    """Test 7."""
    assert first_aligned(norms) == start


def test_the_students_rate_is_a_cosine_that_comes_back() -> None:
    """Test 21: 0 after 20,000 steps, the first rate again after 40,000."""
    at, own = calibration(), parameters(epochs=400, steps=200, warmup_epochs=50, rate_period=100)
    made = Fdda(at, own)
    assert made.student_rate(50, 0) == pytest.approx(1e-6)
    assert made.student_rate(150, 0) == pytest.approx(0.0, abs=1e-12)
    assert made.student_rate(250, 0) == pytest.approx(1e-6)
    assert made.student_rate(400, 0) == pytest.approx(5e-7)


def test_a_centre_is_the_statistics_of_one_image() -> None:
    at = calibration()
    teacher = watched_network(at.graph, CPU)
    found = find_centres(teacher, at.images, at.labels, CPU)
    assert found.trusted == tuple(at.labels.tolist()[:-1])
    with torch.no_grad():
        _, answers = teacher(at.images[1:2])
    norm = teacher.norms[0]
    rows = answers[0][0].flatten(1)
    centre = found.statistics[int(at.labels[1])][0]
    torch.testing.assert_close(centre.mean, ((rows.mean(1) - norm.beta) / norm.factor + norm.mean)[norm.usable])
    with pytest.raises(CalibrationError, match="recognises none"):
        find_centres(teacher, at.images[-1:], at.labels[-1:], CPU)


def test_noise_is_fresh_and_has_the_stated_deviations() -> None:
    """Test 19."""
    random, centre = torch.Generator().manual_seed(0), [Statistics(torch.zeros(20_000), torch.zeros(20_000))]
    one, other = distorted(centre, random)[0], distorted(centre, random)[0]
    assert float(one.mean.std()) == pytest.approx(0.5, rel=0.03)
    assert float(one.variance.std()) == pytest.approx(1.0, rel=0.03)
    assert not torch.equal(one.mean, other.mean)


def test_which_classes_are_drawn() -> None:
    """Test 18: any class in the first epochs, then only those that the float network recognises."""
    made, _ = paper(trust_epochs=2)
    early = {made.draw_class(1) for _ in range(200)}
    late = {made.draw_class(2) for _ in range(200)}
    assert early == set(made.centres.statistics) and late == set(made.centres.trusted) and late < early


def test_layers_before_the_deep_half_are_not_aligned_with_a_centre() -> None:
    made, trainer = paper()
    with torch.no_grad():
        found = trainer.draw(made.centres.trusted[0]).statistics
    leaves = [Statistics(s.mean.clone().requires_grad_(), s.variance.clone().requires_grad_()) for s in found]
    made.class_loss(leaves, made.centres.trusted[0]).backward()
    reached = [leaf.mean.grad is not None for leaf in leaves]
    assert reached == [place >= made.start for place in range(len(leaves))] and not all(reached)


def test_a_class_that_is_not_trusted_gets_noise_everywhere_and_twice_the_weight() -> None:
    made, trainer = paper()
    wrong = next(label for label in made.centres.statistics if label not in made.centres.trusted)
    with torch.no_grad():
        found = trainer.draw(wrong).statistics
    state = made.random.get_state()
    value = made.class_loss(found, wrong)
    made.random.set_state(state)
    noise = [Statistics(torch.randn(s.mean.shape, generator=made.random),
                        torch.randn(s.mean.shape, generator=made.random)) for s in found]
    torch.testing.assert_close(value, 0.9 * 2 * alignment_loss(found, noise))


def test_the_generators_loss_draws_a_batch_of_one_class() -> None:
    made, trainer = paper()
    drawn: list[Tensor] = []
    draw = trainer.draw

    def recorded(label: int | None = None) -> Any:
        generated = draw(label)
        drawn.append(generated.labels)
        return generated

    trainer.draw = recorded
    first = trainer.draw()
    assert math.isfinite(float(made.generator_loss(first, trainer, 9).detach()))
    assert len(set(drawn[1].tolist())) == 1 and int(drawn[1][0]) in made.centres.trusted


def test_the_students_batch_is_real_and_generated_images() -> None:
    at = calibration()
    made, trainer = paper(at, real_images=2, crop=1.0, generated_crop=1.0, flip=False)
    with torch.no_grad():
        generated = trainer.draw()
    seen: list[Tensor] = []
    for _ in range(len(at.images) // 2):
        images, labels, teacher = made.student_batch(generated, trainer)
        assert images.shape[0] == labels.shape[0] == teacher.shape[0] == 2 + 8
        torch.testing.assert_close(images[2:], generated.images)
        seen += list(images[:2])
    rows = {tuple(image.flatten().tolist()) for image in seen}
    assert len(rows) == len(seen)  # one pass uses no image twice


def test_augmented_images_are_others_and_their_teachers_answers_too() -> None:
    made, trainer = paper(real_images=0, generated_crop=0.5)
    with torch.no_grad():
        generated = trainer.draw()
    images, labels, teacher = made.student_batch(generated, trainer)
    assert images.shape == generated.images.shape and not torch.equal(images, generated.images)
    assert torch.equal(labels, generated.labels) and not torch.equal(teacher, generated.logits)


def test_labels_are_asked_for() -> None:
    quantized, images = responsive(recipe("qdrop_w4a4", "policy=none"))
    choice = MethodChoice(name="fdda", parameters=FEW)
    object.__setattr__(quantized, "recipe", quantized.recipe.model_copy(update={"method": choice}))
    with pytest.raises(CalibrationError, match="needs the images' labels"):
        calibrate(quantized, images)


def test_a_run() -> None:
    at = calibration()
    choice = MethodChoice(name="fdda", parameters=FEW)
    quantized, _ = responsive(at.recipe.model_copy(update={"method": choice}))
    result = calibrate(quantized, at.images.repeat(2, 1, 1, 1), labels=at.labels.repeat(2))
    assert len(result.findings.epochs) == 3 and "classes have an image" in result.findings.notes[0]
    assert result.findings.images is not None
