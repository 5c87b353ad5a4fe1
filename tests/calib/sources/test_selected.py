"""CaPTQ's selection: the ranking by each statistic against images whose order is known, and ties."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from isobit.calib.sources import draw
from isobit.calib.sources.selected import STATISTICS, entropy, laplacian, spectrum, total_variation
from isobit.pipeline.errors import InputError
from isobit.pipeline.recipe.schema import ImagesRule
from isobit.pipeline.samples.data import Batches, array_batches, open_pool

CLASSES, PER_CLASS = 10, 8
SOURCES = ["captq-random", *(f"captq-smooth/{statistic}" for statistic in STATISTICS)]


def chosen(pool: Batches, source: str, count: int, seed: int) -> Batches:
    """`source` is a name, with a statistic after the slash."""
    name, _, statistic = source.partition("/")
    parameters = {"statistic": statistic} if statistic else {}
    return draw(pool, ImagesRule(source=name, count=count, batch_size=4, parameters=parameters), seed)


def files_of(batches: Batches) -> list[str]:
    return [batches.samples.files[index] for index in batches.order]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classes of eight noise images of rising roughness, in shuffled names, and of different sizes."""
    root = tmp_path_factory.mktemp("classes")
    for label in range(CLASSES):
        place = root / f"class{label}"
        place.mkdir()
        names = np.random.default_rng(label).permutation(PER_CLASS)
        for roughness, name in enumerate(names):
            noise = np.random.default_rng(100 * label + roughness).random((16 + label, 18, 3)) - 0.5
            pixels = 128 + noise * (4 + 30 * roughness)
            Image.fromarray(pixels.astype(np.uint8)).save(place / f"{name}-rough{roughness}.png")
    return root


@pytest.fixture
def pool(folder: Path) -> Batches:
    return open_pool(folder, batch_size=4, purpose="calib", input_size=14)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("count", [CLASSES, CLASSES + 3, 3 * CLASSES + 4, CLASSES * PER_CLASS])
def test_selection_covers_every_class_repeats_no_file_and_follows_the_seed(
    pool: Batches, source: str, count: int
) -> None:
    """That the draw also trains like QDrop's is measured by tools/reproduce, not here."""
    drawn = chosen(pool, source, count, seed=1005)
    files, labels = files_of(drawn), drawn.labels.tolist()
    assert len(files) == len(set(files)) == count
    assert [int(file[5]) for file in files] == labels and set(labels) == set(range(CLASSES))
    extras = Counter(labels) - Counter(range(CLASSES))  # one of each class is there, these are besides
    assert sum(extras.values()) == count - CLASSES
    assert files_of(chosen(pool, source, count, seed=1005)) == files
    assert files_of(chosen(pool, source, count, seed=1006)) != files


def test_extras_come_from_all_that_remains_with_equal_chance(pool: Batches) -> None:
    """One image of a class of eight is taken first; each of the rest is an extra with the same probability."""
    taken = Counter(index for seed in range(400) for index in chosen(pool, "captq-random", CLASSES + 30, seed).order)
    # First of its class 1 in 8, else 30 extras of 70 that remain: half of all images in every draw.
    assert len(taken) == CLASSES * PER_CLASS
    assert all(abs(times / 400 - 0.5) < 5 * math.sqrt(0.25 / 400) for times in taken.values())


def test_the_random_draw_is_in_random_order(pool: Batches) -> None:
    """The first images give the activation ranges: they must not be those of the first classes, nor one of each."""
    labels = chosen(pool, "captq-random", 40, seed=0).labels.tolist()
    assert labels != sorted(labels) and len(set(labels[:CLASSES])) < CLASSES


@pytest.mark.parametrize("source", SOURCES)
def test_fewer_images_than_classes_are_refused(pool: Batches, source: str) -> None:
    with pytest.raises(InputError, match="9 images cannot cover the 10 classes") as caught:
        chosen(pool, source, CLASSES - 1, seed=0)
    assert caught.value.where == "images.count" and caught.value.allowed == "at least 10"


@pytest.mark.parametrize("source", SOURCES)
def test_more_images_than_there_are_takes_all_once(pool: Batches, source: str) -> None:
    assert sorted(chosen(pool, source, 1000, seed=0).order) == list(range(CLASSES * PER_CLASS))


@pytest.mark.parametrize("statistic", ["total-variation", "laplacian", "entropy"])
def test_the_smoothest_of_each_class_are_taken(pool: Batches, statistic: str) -> None:
    files = files_of(chosen(pool, f"captq-smooth/{statistic}", 2 * CLASSES + 3, seed=0))
    found = Counter(file.split("-")[1] for file in files)
    assert found == {"rough0.png": CLASSES, "rough1.png": CLASSES, "rough2.png": 3}


def test_by_spectrum_the_slow_wave_is_before_the_fast_one_whatever_their_contrast(tmp_path: Path) -> None:
    """Cycles in 16 pixels: 2, 3, 5, 6; the cut-off is at 4. Total variation follows the contrast instead."""
    wave = [np.sin(2 * np.pi * cycles * np.arange(16) / 16) for cycles in (2, 3, 5, 6)]
    images = [np.broadcast_to(contrast * row, (1, 16, 16)) for row, contrast in zip(wave, (4, 3, 2, 1), strict=True)]
    order = [2, 0, 3, 1]
    np.savez(tmp_path / "x.npz", x=np.stack([images[i] for i in order]).astype(np.float32), y=np.zeros(4, int))
    waves = open_pool(tmp_path / "x.npz", batch_size=1, purpose="calib")
    assert {order[i] for i in chosen(waves, "captq-smooth/spectrum", 2, seed=0).order} == {0, 1}
    assert {order[i] for i in chosen(waves, "captq-smooth/total-variation", 2, seed=0).order} != {0, 1}


def test_equal_images_are_taken_in_the_order_of_the_files(tmp_path: Path) -> None:
    same = np.random.default_rng(0).random((1, 1, 6, 6)).repeat(9, 0).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=same, y=np.arange(9) % 3)
    pool = open_pool(tmp_path / "x.npz", batch_size=1, purpose="calib")
    for statistic in STATISTICS:
        for seed in range(3):
            assert sorted(chosen(pool, f"captq-smooth/{statistic}", 6, seed).order) == [0, 1, 2, 3, 4, 5]


def test_classes_that_run_out_leave_their_turns_to_the_others(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.arange(24, dtype=np.float32).reshape(6, 1, 2, 2), y=[0, 1, 1, 1, 1, 2])
    pool = open_pool(tmp_path / "x.npz", batch_size=1, purpose="calib")
    for source in SOURCES:
        assert sorted(Counter(chosen(pool, source, 5, seed=0).labels.tolist()).items()) == [(0, 1), (1, 3), (2, 1)]


def test_the_last_turn_is_not_always_for_the_first_classes(pool: Batches) -> None:
    def extra(seed: int) -> set[int]:
        return {k for k, n in Counter(chosen(pool, "captq-smooth", CLASSES + 2, seed).labels.tolist()).items() if n > 1}

    assert len(set().union(*(extra(seed) for seed in range(8)))) > 4


def test_ranking_sees_the_images_without_their_augmentation(pool: Batches) -> None:
    rule = ImagesRule(source="captq-smooth", count=20, batch_size=4, augment="train")
    assert draw(pool, rule, 0).order == chosen(pool, "captq-smooth", 20, seed=0).order


# --- the statistics by hand ---


def image(rows: list[list[float]]) -> torch.Tensor:
    return torch.tensor([rows], dtype=torch.float64)


def test_statistics_of_images_that_can_be_worked_out() -> None:
    step = image([[0, 0, 1], [0, 0, 1]])
    assert total_variation(step, 0, 1) == pytest.approx(2 / 7)  # 3 differences down, 4 across, of which 2 are 1
    corner = image([[1, 0, 0], [0, 0, 0], [0, 0, 0]])  # Laplacian -2 at the corner (its edge is repeated), 1 beside
    assert laplacian(corner, 0, 1) == pytest.approx((4 + 1 + 1) / 9)
    checkers = image([[0, 1], [1, 0]])
    assert spectrum(checkers, 0, 1) == pytest.approx(1)
    angle = 2 * math.pi * torch.arange(16, dtype=torch.float64) / 16
    slow, fast = torch.sin(3 * angle).expand(1, 16, 16), torch.sin(6 * angle).expand(1, 16, 16)
    assert spectrum(slow, -1, 1) == pytest.approx(0, abs=1e-12)
    assert spectrum(5 + 0.6 * slow + 0.8 * fast, -1, 1) == pytest.approx(0.64)
    assert spectrum(slow * slow.mT, -1, 1) == pytest.approx(1)  # 3 cycles each way are 4.2 along the diagonal
    assert entropy(image([[0, 1], [0, 1]]), 0, 1) == pytest.approx(1)
    assert entropy(image([[0, 0.3], [0.6, 1]]), 0, 1) == pytest.approx(2)
    colour = torch.cat([image([[1.0, 1.0]]), image([[0.0, 0.0]])])
    assert entropy(colour, 0, 1) == 0  # one flat colour


@pytest.mark.parametrize("value", [0.0, 0.1, -3.7])
def test_a_flat_image_and_one_pixel_are_as_smooth_as_can_be(value: float) -> None:
    for shape in ((3, 9, 7), (1, 1, 1), (2, 1, 5)):
        for measure in STATISTICS.values():
            assert measure(torch.full(shape, value, dtype=torch.float32).double(), value, value) == 0


def test_levels_of_eight_bits_have_a_bin_each() -> None:
    levels = (torch.arange(256, dtype=torch.float32) / 255).double()[None, None]
    assert entropy(levels, 0, 1) == pytest.approx(8)


# --- boxes ---


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures, rougher by number: all show class 0, every third 1 as well, one of them 2; the last none."""
    root = tmp_path_factory.mktemp("boxes")
    said: dict[str, list[dict[str, object]]] = {
        "images": [], "annotations": [], "categories": [{"id": 1 + label, "name": str(label)} for label in range(3)]}
    for place in range(12):
        noise = np.random.default_rng(place).random((16, 16, 3)) - 0.5
        Image.fromarray((128 + noise * 15 * (place + 1)).astype(np.uint8)).save(root / f"{place}.png")
        said["images"].append({"id": place, "file_name": f"{place}.png", "width": 16, "height": 16})
        shown = [] if place == 11 else [0] + [1] * (place % 3 == 0) + [2] * (place == 6)
        said["annotations"] += [{"image_id": place, "category_id": 1 + label, "bbox": [1, 1, 9, 9]} for label in shown]
    (root / "boxes.json").write_text(json.dumps(said))
    return root / "boxes.json"


def test_a_random_draw_covers_the_classes_of_boxes_and_takes_no_more_than_it_needs(boxes: Path) -> None:
    pool = open_pool(boxes, batch_size=4, purpose="calib")
    for seed in range(20):
        drawn = chosen(pool, "captq-random", 4, seed)
        assert {label for shown in drawn.classes_shown for label in shown} == {0, 1, 2} and len(set(drawn.order)) == 4
        assert drawn.order == chosen(pool, "captq-random", 4, seed).order
    sizes = {len(chosen(pool, "captq-random", 3, seed).order) for seed in range(20)}
    assert sizes == {3}
    with pytest.raises(InputError, match="images cannot cover the 3 classes"):
        for seed in range(20):  # a first picture of class 0 rarely shows the others
            chosen(pool, "captq-random", 1, seed)


def test_the_smoothest_of_boxes_are_taken_class_by_class_and_no_picture_twice(boxes: Path) -> None:
    pool = open_pool(boxes, batch_size=4, purpose="calib")
    for seed in range(6):
        order = chosen(pool, "captq-smooth", 3, seed).order
        # class 2 has picture 6 alone; 0 and 1 share their smoothest, so that one of them takes its next.
        assert set(order) in ({0, 1, 6}, {0, 3, 6})
    assert 11 not in chosen(pool, "captq-smooth", 11, 0).order  # the last is of no class
    assert sorted(chosen(pool, "captq-smooth", 40, 0).order) == list(range(12))  # and fills up what the turns leave


@pytest.mark.parametrize("source", ["captq-random", "captq-smooth"])
def test_pictures_without_any_box_are_refused(boxes: Path, source: str) -> None:
    said = json.loads(boxes.read_text()) | {"annotations": []}
    empty = boxes.with_name(f"{source}.json")
    empty.write_text(json.dumps(said))
    with pytest.raises(InputError, match="no sample shows one") as caught:
        draw(open_pool(empty, batch_size=4, purpose="calib"), ImagesRule(source=source, count=4, batch_size=4), 0)
    assert caught.value.field == "recipe.images.source" and str(empty) in caught.value.where


def test_boxes_of_a_users_function_serve_as_well_and_one_per_class_wants_labels(boxes: Path) -> None:
    targets = [{"boxes": np.zeros((1, 4)), "labels": [place % 3]} for place in range(6)]
    pool = array_batches(torch.zeros(6, 3, 4, 4), targets, 2, "calib", "memory")
    assert {shown[0] for shown in chosen(pool, "captq-random", 3, 0).classes_shown} == {0, 1, 2}
    with pytest.raises(InputError, match="the source 'one-per-class' needs labels"):
        draw(open_pool(boxes, batch_size=4, purpose="calib"),
             ImagesRule(source="one-per-class", count=0, batch_size=4, parameters={}), 0)
