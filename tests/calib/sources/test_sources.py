"""The registry of sources: names, parameters and needs, loud where they are wrong, and the one way to draw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from isobit.calib.sources import SOURCES, Maker, Source, draw, find_source, make, makes_images
from isobit.pipeline.errors import InputError, RecipeError
from isobit.pipeline.recipe.family import list_families
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.recipe.schema import ImagesRule
from isobit.pipeline.samples.data import Batches, open_pool
from tests.examples.tiny import quantized_net
from tests.examples.units import PAPER, net, recipe


def rule(source: str = "files", count: int = 4, **keys: object) -> ImagesRule:
    augment = keys.pop("augment", "eval")
    return ImagesRule(source=source, count=count, batch_size=2, augment=augment, parameters=keys)


def arrays(folder: Path, labels: list[int] | None) -> Batches:
    x = np.arange(32, dtype=np.float32).reshape(8, 1, 2, 2)
    np.savez(folder / "data.npz", x=x, **({} if labels is None else {"y": np.array(labels)}))
    return open_pool(folder / "data.npz", batch_size=2, purpose="calib")


@pytest.fixture
def flat(tmp_path: Path) -> Batches:
    """Six images of 12 x 12 in one folder."""
    (tmp_path / "flat").mkdir()
    for index in range(6):
        noise = np.random.default_rng(index).integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "flat" / f"{index}.png")
    return open_pool(tmp_path / "flat", batch_size=2, purpose="calib")


def test_these_sources_are_there_and_every_shipped_recipe_finds_its_own() -> None:
    for family in list_families():
        found, parameters = find_source(load_recipe(family.recipes[0]).images)
        assert isinstance(parameters, found.parameters)
    sources = [SOURCES.get(name) for name in SOURCES.names()]
    assert {found.name: found.needs for found in sources if isinstance(found, Source)} == {
        "files": frozenset(), "captq-random": {"classes"}, "captq-smooth": {"classes"}, "one-per-class": {"labels"},
    }
    assert {found.name: found.gives for found in sources if isinstance(found, Maker)} == {
        "distilled": {"images"}, "generated": {"images", "labels"}, "none": frozenset(),
    }


@pytest.mark.parametrize(
    ("images", "message", "hint"),
    [
        (rule("captq-randm"), "no source of images 'captq-randm'", "Did you mean 'captq-random'?"),
        (rule(batchsize=3), "source 'files' has no parameter 'batchsize'", "Did you mean 'batch_size'?"),
        (rule("captq-smooth", statistc="entropy"), "no parameter 'statistc'", "Did you mean 'statistic'?"),
        (rule("captq-random", statistic="entropy"), "'captq-random' has no parameter 'statistic'", ""),
        (rule("captq-smooth", statistic="blur"), "'statistic' is 'blur'", ""),
        (rule(count=0), "as many images as the recipe says, and it says 0", ""),
        (rule("distilled", count=0), "as many images as the recipe says, and it says 0", ""),
        (rule("none"), "knows itself how many images there are", "`recipe.images.count=0`"),
        (rule("one-per-class"), "knows itself how many images there are", "`recipe.images.count=0`"),
        (rule("distilled", augment="train"), "makes images, and none is augmented", ""),
    ],
)
def test_what_a_source_does_not_know_is_refused(images: ImagesRule, message: str, hint: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        find_source(images)
    assert caught.value.hint == hint and caught.value.allowed


def test_labels_that_a_source_needs_are_asked_for_before_it_works(tmp_path: Path, flat: Batches) -> None:
    for pool in (arrays(tmp_path, None), flat):
        assert len(draw(pool, rule(), 0)) == 4
        for name in ("captq-random", "captq-smooth"):
            with pytest.raises(InputError, match=f"'{name}' needs labels") as caught:
                draw(pool, rule(name), 0)
            assert caught.value.where == str(pool.path) and "subfolder" in caught.value.allowed
    assert len(draw(arrays(tmp_path, [0, 1] * 4), rule("captq-random"), 0)) == 4


def test_augmentation_is_drawn_where_the_recipe_asks_and_tells_in_the_hash(flat: Batches) -> None:
    plain, augmented = (draw(flat, rule(augment=how), 7) for how in ("eval", "train"))
    assert plain.order == augmented.order and plain.sha256 != augmented.sha256
    a, b = plain.materialize()[0], augmented.materialize()[0]
    assert a.shape == b.shape and not any(torch.equal(one, other) for one, other in zip(a, b, strict=True))
    assert not torch.equal(draw(flat, rule(augment="train"), 8).samples.read(0), augmented.samples.read(0))


def test_arrays_with_augmentation_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="prepared already"):
        draw(arrays(tmp_path, None), rule(augment="train"), 0)


def test_what_was_drawn_is_checked(flat: Batches) -> None:
    Image.new("RGB", (13, 12)).save(flat.path / "3.png")
    with pytest.raises(InputError, match="different sizes"):
        draw(flat, rule(count=6), 0)


def test_a_source_draws_or_makes_and_never_both(flat: Batches) -> None:
    assert makes_images(rule("distilled")) and not makes_images(rule("files"))
    with pytest.raises(RecipeError, match="draws from no data"):
        draw(flat, rule("distilled"), 0)
    quantized, _ = net(recipe("mse_w8a8"))
    with pytest.raises(RecipeError, match="'files' makes no images"):
        make(quantized)


def test_images_are_not_made_from_a_network_without_batch_norms() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4)).eval()
    quantized, _ = quantized_net(PAPER, recipe("mse_w8a8", "images.source=distilled"), model, torch.zeros(1, 3, 8, 8))
    with pytest.raises(RecipeError, match="needs the statistics of batch norms, and the model has none"):
        make(quantized)
