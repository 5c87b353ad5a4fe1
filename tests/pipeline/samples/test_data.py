"""Data: what is read is exactly the pixels and rows that are there, in a repeatable order, and faults name the file."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from isobit.pipeline.errors import InputError
from tests.examples.sample_files import GOOD, npz, opened, picture, pool_of, refused

# --- folders ---


def test_a_folder_gives_labels_in_alphabetical_order_and_counts_empty_classes(folder):
    batches = opened(folder)
    assert len(batches) == 7 and batches.shape == (3, 8, 8)
    assert batches.classes == ("cat", "dog", "zebra")
    assert batches.labels.tolist() == [0, 0, 0, 2, 2, 2, 2] and batches.labels.dtype == torch.int64
    assert [len(x) for x, _ in batches] == [3, 3, 1]


def test_pixels_are_scaled_normalised_and_in_the_order_of_the_channels(folder):
    pixels = picture(folder / "cat" / "0.png")
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    x = opened(folder, mean=mean, std=std).example
    expected = (pixels.astype(np.float64) / 255 - mean) / std
    assert x.shape == (1, 3, 8, 8) and x.dtype == torch.float32
    np.testing.assert_allclose(x[0].permute(1, 2, 0).numpy(), expected, atol=1e-6)


def test_every_iteration_and_materialize_give_the_same(folder):
    batches = opened(folder, "calib", seed=3)
    first, second = list(batches), list(batches)
    x, y = batches.materialize()
    assert torch.equal(torch.cat([b for b, _ in first]), x) and torch.equal(torch.cat([b for b, _ in second]), x)
    assert torch.equal(torch.cat([b for _, b in first]), y)
    assert torch.equal(batches.example, x[:1])


def test_labels_stay_with_their_images_when_shuffled(tmp_path):
    for value in range(6):
        picture(tmp_path / "set" / str(value) / "a.png", value=value)
    x, y = opened(tmp_path / "set", "calib", seed=1).materialize()
    assert y.tolist() != sorted(y.tolist())
    assert (x[:, 0, 0, 0] * 255).round().long().tolist() == y.tolist()


def test_the_draw_follows_the_seed_and_repeats_nothing(folder):
    def draw(purpose, count, seed):
        return opened(folder, purpose, count=count, seed=seed).order

    assert draw("calib", 4, 0) == draw("calib", 4, 0) == draw("calib", None, 0)[:4]
    assert len({draw("calib", 4, seed) for seed in range(10)}) > 5
    assert sorted(draw("calib", None, 0)) == list(range(7)) == sorted(draw("calib", 100, 0))
    assert draw("eval", None, 0) == tuple(range(7))
    assert draw("eval", 4, 0) == tuple(sorted(draw("calib", 4, 0)))


def test_first_cuts(folder):
    batches = opened(folder)
    assert len(batches.first(4)) == 4
    assert torch.equal(batches.first(4).materialize()[0], batches.materialize()[0][:4])


def test_a_flat_folder_has_no_labels(tmp_path):
    picture(tmp_path / "set" / "b.png")
    picture(tmp_path / "set" / "a.JPG")
    for purpose in ("calib", "eval"):
        batches = opened(tmp_path / "set", purpose)
        assert len(batches) == 2 and batches.classes is None and batches.labels is None
        assert [y for _, y in batches] == [None]


def test_images_are_decoded_only_when_they_are_asked_for(folder, monkeypatch):
    decoded = []
    real = Image.Image.convert
    monkeypatch.setattr(Image.Image, "convert", lambda self, mode: decoded.append(1) or real(self, mode))
    batches = opened(folder, batch_size=2)
    assert len(decoded) == 0
    next(iter(batches))
    assert len(decoded) == 2


# --- the pool ---


@pytest.fixture
def imagenet(tmp_path):
    """The standard folder in small: train/<wnid>/<wnid>_<n>.JPEG of different sizes, two of three classes with more."""
    for wnid, count in (("n01440764", 5), ("n01443537", 4), ("n02085620", 3)):
        for index in range(count):
            picture(tmp_path / "train" / wnid / f"{wnid}_{index}.JPEG", size=(20 + 3 * index, 31 - index))
    return tmp_path / "train"


def test_a_pool_is_everything_in_the_order_of_the_files(folder):
    picture(folder / "cat" / "deep" / "9.png")
    picture(folder / "cat" / "deep-er.png")
    batches = pool_of(folder)
    names = [batches.samples.content(index)[0].split(b"\0")[0].decode() for index in range(len(batches))]
    assert names == sorted(names, key=lambda name: name.split("/")) and len(names) == 9
    assert names.index("cat/deep/9.png") < names.index("cat/deep-er.png")
    assert batches.labels.tolist() == [0] * 5 + [2] * 4


def test_only_headers_of_drawn_images_are_looked_at(imagenet, monkeypatch):
    looked = []
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda file, *rest: looked.append(file) or real(file, *rest))
    pool = pool_of(imagenet, input_size=16)
    assert len(pool) == 12 and pool.shape == (3, 16, 16) and not looked
    drawn = opened(imagenet, "calib", input_size=16, count=4)
    assert len(drawn) == 4 and len(set(looked)) == len(looked) == 4
    assert drawn.materialize()[0].shape == (4, 3, 16, 16)


def test_a_damaged_file_that_was_not_drawn_does_not_matter(folder):
    (folder / "cat" / "0.png").write_bytes(b"no image")
    pool = pool_of(folder)
    assert pool.select([1, 3]).checked().materialize()[0].shape == (2, 3, 8, 8)
    with pytest.raises(InputError, match="not an image") as caught:
        pool.select([1, 0]).checked()
    assert caught.value.where.endswith("cat/0.png")


def test_the_common_size_is_that_of_the_drawn_images(folder):
    picture(folder / "cat" / "0.png", size=(9, 9))
    pool = pool_of(folder)
    assert pool.select([2, 1]).checked().shape == (3, 8, 8)
    for use in (lambda: pool.select([2, 0]).checked(), lambda: pool.pixels(1)):
        with pytest.raises(InputError, match="different sizes"):
            use()


def test_a_selection_keeps_labels_and_takes_places_not_indices(folder):
    chosen = pool_of(folder).select([6, 0, 3]).select([2, 0])
    assert chosen.order == (3, 6) and chosen.labels.tolist() == [2, 2]


def test_pixels_are_those_before_normalisation(folder, tmp_path):
    values = picture(folder / "cat" / "1.png", size=(8, 8))
    pool = pool_of(folder, mean=[0.5] * 3, std=[0.1] * 3)
    assert np.array_equal((pool.select([1]).pixels(0) * 255).round().permute(1, 2, 0).numpy(), values)
    assert pool.samples.pixel_range == (0, 1)
    arrays = pool_of(npz(tmp_path, x=np.linspace(-2, 3, 16, dtype=np.float32).reshape(4, 1, 2, 2)))
    assert torch.equal(arrays.pixels(3), arrays.samples.read(3)) and arrays.samples.pixel_range == (-2, 3)


def test_a_folder_that_may_not_be_read_is_named(folder, monkeypatch):
    real = os.scandir

    def scandir(path):
        if str(path).endswith("cat"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert refused(folder, "the folder cannot be read: Permission denied").where.endswith("cat")


# --- augmentation ---


def test_augmented_images_are_crops_drawn_once_by_seed_and_name(imagenet):
    plain = pool_of(imagenet, input_size=16)
    augmented = plain.augmented(3)
    x = augmented.materialize()[0]
    assert x.shape == (12, 3, 16, 16) and torch.equal(x, augmented.materialize()[0])
    turned = augmented.select(range(11, -1, -1)).first(5)
    assert torch.equal(turned.materialize()[0], x.flip(0)[:5])  # neither order nor batch matters
    (imagenet / "n01440764" / "n01440764_0.JPEG").unlink()
    assert torch.equal(pool_of(imagenet, input_size=16).augmented(3).materialize()[0], x[1:])  # nor the place in a list
    assert not any(torch.equal(a, b) for a, b in zip(x[1:], plain.select(range(1, 12)).materialize()[0], strict=True))
    assert not torch.equal(x[1:], plain.augmented(4).select(range(1, 12)).materialize()[0])


def test_augmentation_crops_and_flips(tmp_path):
    ramp = np.broadcast_to(np.arange(0, 240, 4, dtype=np.uint8), (60, 60))
    (tmp_path / "set").mkdir()
    for index in range(40):
        Image.fromarray(ramp).save(tmp_path / "set" / f"{index}.png")
    rows = pool_of(tmp_path / "set", channels=1).augmented(0).materialize()[0][:, 0, 30]
    rises = (rows[:, -1] > rows[:, 0]).float().mean()
    assert 0.25 < rises < 0.75  # half of them are flipped
    spans = (rows[:, -1] - rows[:, 0]).abs() / float(rows.max() - rows.min())
    assert spans.min() < 0.6 < 0.8 < spans.max()  # of 8 to 100 % of the area


def test_augmentation_leaves_the_random_state_and_the_pixels_alone(imagenet):
    plain = pool_of(imagenet, input_size=16)
    before = torch.random.get_rng_state()
    augmented = plain.augmented(3)
    assert torch.equal(augmented.pixels(0), plain.pixels(0)) and not torch.equal(augmented.example, plain.example)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_augmented_images_without_a_size_keep_their_own(folder, imagenet):
    assert pool_of(folder).augmented(0).checked().materialize()[0].shape == (7, 3, 8, 8)
    with pytest.raises(InputError, match="different sizes"):
        pool_of(imagenet).augmented(0).checked()


def test_arrays_are_not_augmented(tmp_path):
    with pytest.raises(InputError, match="prepared already") as caught:
        pool_of(npz(tmp_path, x=GOOD)).augmented(0)
    assert "augment: eval" in caught.value.allowed


# --- sizes and channels ---


def test_images_of_another_size_are_resized_and_cropped_about_the_centre(tmp_path):
    wide = Image.new("RGB", (70, 35), (0, 0, 0))
    wide.paste((255, 255, 255), (26, 0, 44, 35))  # a white bar in the middle
    (tmp_path / "set").mkdir()
    wide.save(tmp_path / "set" / "wide.png")
    picture(tmp_path / "set" / "exact.png", size=(28, 28), value=7)
    x, _ = opened(tmp_path / "set", "calib", input_size=28).materialize()
    assert x.shape == (2, 3, 28, 28)
    bar = next(sample for sample in x if sample.max() > 0.9)[0]
    # The height goes from 35 to round(28 * 256 / 224) = 32, so the bar of 18 is 16.5 wide, in the middle of 28.
    assert torch.allclose(bar, bar.flip(1), atol=0.02)
    assert 15 <= int((bar[14] > 0.5).sum()) <= 18
    assert bar[:, 0].max() < 0.01


def test_an_image_that_has_the_size_is_not_touched(tmp_path):
    pixels = picture(tmp_path / "set" / "a.png", size=(28, 28))
    x = opened(tmp_path / "set", "calib", input_size=28).example
    assert (x[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy().tolist() == pixels.tolist()


def test_different_sizes_without_input_size_name_the_file_and_both_sizes(folder):
    picture(folder / "zebra" / "3.png", size=(9, 8))
    error = refused(folder, "9x8 here, 8x8 in")
    assert error.where.endswith("zebra/3.png") and "`input_size`" in error.hint
    assert opened(folder, input_size=8).shape == (3, 8, 8)


def test_rectangular_images_keep_height_before_width(tmp_path):
    picture(tmp_path / "set" / "a.png", size=(10, 6))
    assert opened(tmp_path / "set", "calib").example.shape == (1, 3, 6, 10)


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_grey_and_transparent_images_become_rgb(tmp_path, mode):
    pixels = picture(tmp_path / "set" / "a.png", mode=mode)
    x = (opened(tmp_path / "set", "calib").example[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    assert np.array_equal(x, np.repeat(pixels[..., None], 3, -1) if mode == "L" else pixels[..., :3])


def test_one_channel_on_request(tmp_path):
    pixels = picture(tmp_path / "set" / "a.png", mode="L")
    batches = opened(tmp_path / "set", "calib", channels=1, mean=[0.5], std=[0.25])
    assert batches.shape == (1, 8, 8)
    np.testing.assert_allclose(batches.example[0, 0].numpy(), (pixels / 255 - 0.5) / 0.25, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"mean": [0.5, 0.5]}, {"std": [1.0, 1.0, 1.0, 1.0]}, {"std": [1, 0, 1]}, {"mean": [float("nan"), 0, 0]}],
)
def test_mean_and_std_fit_the_channels(folder, options):
    refused(folder, "`mean`|`std`|numbers for images", **options)


# --- bad folders and images ---


def test_missing_empty_and_mixed_folders(folder, tmp_path):
    refused(tmp_path / "nowhere", "does not exist")
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    for purpose in ("calib", "eval"):
        refused(tmp_path / "empty", "holds no images", purpose=purpose)
    (tmp_path / "notes.txt").write_text("")
    refused(tmp_path / "notes.txt", "of this kind cannot be read")
    picture(folder / "stray.png")
    refused(folder, "both images and class folders: 'stray.png'")


@pytest.mark.parametrize("data", [b"", b"no image at all"])
def test_a_file_that_is_no_image_is_named_when_the_folder_is_opened(folder, data):
    (folder / "cat" / "1.png").write_bytes(data)
    assert refused(folder, "cannot be read: not an image").where.endswith("cat/1.png")


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_truncated_image_is_named_when_it_is_decoded(folder, suffix):
    whole = folder / "cat" / f"5.{suffix}"
    picture(whole, size=(8, 8))
    whole.write_bytes(whole.read_bytes()[:-40])
    with pytest.raises(InputError, match="the image cannot be read") as caught:
        opened(folder).materialize()
    assert caught.value.where == str(whole)


def test_more_than_8_bits_a_channel_are_refused(folder):
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(folder / "cat" / "1.png")
    assert refused(folder, "more than 8 bits").where.endswith("cat/1.png")


def test_a_purpose_that_nobody_knows_is_refused(folder):
    with pytest.raises(InputError, match="purpose is 'calibration'") as caught:
        opened(folder, purpose="calibration")
    assert caught.value.allowed == "calib or eval"
