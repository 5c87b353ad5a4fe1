"""GDFQ's generator: its shapes, its slips, and that a step does what the loss asks."""

from __future__ import annotations

import pytest
import torch

from isobit.calib.synthesis.generator import (
    LATENT,
    Conditioning,
    Generator,
    GeneratorTrainer,
    gdfq_loss,
    make_generator,
)
from isobit.calib.synthesis.statistics import alignment_loss, watched_network
from tests.examples.units import CPU, PAPER, recipe, responsive

CLASSES = 5


def trainer(seed: int = 0, conditioning: Conditioning = "embedding", rate: float = 1e-3) -> GeneratorTrainer:
    quantized, images = responsive(recipe("qdrop_w4a4"), PAPER)
    generator = make_generator(images.shape[1:], CLASSES, conditioning, seed, CPU)
    return GeneratorTrainer(generator, watched_network(quantized.graph, CPU), CLASSES, 16, rate, seed, "float32", CPU)


@pytest.mark.parametrize(
    ("shape", "classes", "conditioning", "count"),
    [((3, 32, 32), 100, "embedding", 1_061_139), ((3, 32, 32), 10, "embedding", 1_052_139),
     ((3, 224, 224), 1000, "norm", 41_405_315)],
)
def test_the_papers_numbers_of_parameters(shape, classes: int, conditioning: Conditioning, count: int) -> None:
    with torch.device("meta"):
        made = Generator(shape, classes, conditioning)
    assert sum(parameter.numel() for parameter in made.parameters()) == count


@pytest.mark.parametrize("conditioning", ["embedding", "norm"])
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 13, 10)])
def test_images_have_the_shape_and_moments_of_normalised_ones(shape, conditioning: Conditioning) -> None:
    made = make_generator(shape, CLASSES, conditioning, 3, CPU)
    images = made(torch.randn(32, LATENT), torch.randint(CLASSES, (32,)))
    assert images.shape == (32, *shape)
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(shape[0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(images.var((0, 2, 3), correction=0), torch.ones(shape[0]), atol=1e-2, rtol=0)


def test_given_moments_are_those_of_the_images() -> None:
    mean, deviation = torch.tensor([-4.0]), torch.tensor([7.0])
    made = make_generator((1, 12, 8), CLASSES, "norm", 3, CPU, mean, deviation)
    images = made(torch.randn(64, LATENT), torch.randint(CLASSES, (64,))).detach()
    assert float(images.mean()) == pytest.approx(-4.0, abs=0.01) and float(images.std()) == pytest.approx(7.0, rel=0.01)


@pytest.mark.parametrize("conditioning", ["embedding", "norm"])
def test_the_class_changes_the_image(conditioning: Conditioning) -> None:
    made = make_generator((3, 8, 8), CLASSES, conditioning, 3, CPU)
    if conditioning == "norm":  # its tables start as 1 and 0 for every class
        assert all(bool((norm.factor.weight == 1).all()) for norm in made.norms)
        assert all(bool((norm.shift.weight == 0).all()) for norm in made.norms)
        with torch.no_grad():
            made.norms[0].shift.weight.normal_()
    noise = torch.randn(8, LATENT)
    with torch.no_grad():
        one, other = (made(noise, torch.full((8,), label)) for label in (0, 1))
    assert float((one - other).abs().max()) > 1e-3


def test_the_late_norms_keep_the_authors_eps() -> None:
    made = make_generator((3, 8, 8), CLASSES, "embedding", 0, CPU)
    assert [norm.eps for norm in made.norms] == [1e-5, 0.8, 0.8]


def test_steps_make_obedient_images_with_the_right_statistics() -> None:
    """Test 17: the share of images in the ordered class rises, L_BNS falls, the float network stays as it is."""
    made = trainer(rate=5e-3)
    before = {name: value.clone() for name, value in made.teacher._module.state_dict().items()}

    def seen() -> tuple[float, float]:
        with torch.no_grad():
            draws = [made.draw() for _ in range(8)]
        lost = [float(alignment_loss(generated.statistics, made.running)) for generated in draws]
        return sum(generated.obeyed for generated in draws) / 8, sum(lost) / 8

    start = seen()
    for _ in range(100):
        made.step(lambda: gdfq_loss(made.draw(), made.running))
    assert seen()[0] > start[0] + 0.1
    for _ in range(40):
        made.step(lambda: gdfq_loss(made.draw(), made.running, statistics_weight=1e3))
    assert seen()[1] < 0.95 * start[1]
    assert all(torch.equal(value, before[name]) for name, value in made.teacher._module.state_dict().items())


def test_the_seed_decides_everything() -> None:
    one, same, other = trainer(7), trainer(7), trainer(8)
    for each in (one, same, other):
        each.step(lambda each=each: gdfq_loss(each.draw(), each.running))
    with torch.no_grad():
        images = [each.draw().images for each in (one, same, other)]
    assert torch.equal(images[0], images[1]) and not torch.equal(images[0], images[2])


def test_one_label_on_order() -> None:
    assert set(trainer().draw(3).labels.tolist()) == {3}
