"""Data: what is read is exactly the pixels and rows that are there, in a repeatable order, and faults name the file."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.data import check_against_model, open_data, open_pool
from pipeline.errors import InputError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def picture(path, size=(8, 8), mode="RGB", value=None):
    """Writes a picture of random pixels, or of one value; returns its pixels [H, W(, C)]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    shape = (size[1], size[0], *channels)
    seed = int(hashlib.sha256(path.name.encode()).hexdigest()[:8], 16)
    pixels = np.random.default_rng(seed).integers(0, 256, shape) if value is None else np.full(shape, value)
    Image.fromarray(pixels.astype(np.uint8), mode).save(path)
    return pixels.astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Three classes with 3, 0 and 4 images, and what operating systems leave behind."""
    for name, count in (("cat", 3), ("dog", 0), ("zebra", 4)):
        (tmp_path / "set" / name).mkdir(parents=True)
        for index in range(count):
            picture(tmp_path / "set" / name / f"{index}.png")
    (tmp_path / "set" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "set" / "cat" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "set" / "cat" / "._0.png").write_bytes(b"x")
    return tmp_path / "set"


def opened(path, purpose="eval", batch_size=3, **options):
    return open_data(path, batch_size=batch_size, purpose=purpose, **options)


def refused(path, match, **options):
    with pytest.raises(InputError, match=match) as caught:
        opened(path, **options)
    return caught.value


def npz(tmp_path, **arrays):
    np.savez(tmp_path / "data.npz", **arrays)
    return tmp_path / "data.npz"


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


def test_a_flat_folder_is_for_calibration_only(tmp_path):
    picture(tmp_path / "set" / "b.png")
    picture(tmp_path / "set" / "a.JPG")
    batches = opened(tmp_path / "set", "calib")
    assert len(batches) == 2 and batches.classes is None and batches.labels is None
    assert [y for _, y in batches] == [None]
    refused(tmp_path / "set", "no class subfolders")


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


def pool_of(path, **options):
    return open_pool(path, batch_size=2, purpose="calib", **options)


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
    assert error.where.endswith("zebra/3.png") and "--input-size" in error.hint
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
    [{"mean": [0.5]}, {"std": [1.0, 1.0, 1.0, 1.0]}, {"std": [1, 0, 1]}, {"mean": [float("nan"), 0, 0]}],
)
def test_mean_and_std_fit_the_channels(folder, options):
    refused(folder, "--mean|--std", **options)


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


# --- arrays ---


def test_an_npz_with_labels(tmp_path):
    x = np.random.default_rng(0).normal(size=(5, 1, 4, 3)).astype(np.float32)
    y = np.array([3, 1, 0, 1, 2], dtype=np.uint8)
    batches = opened(npz(tmp_path, x=x, y=y), batch_size=2, mean=[9.0], std=[9.0])
    found, labels = batches.materialize()
    assert np.array_equal(found.numpy(), x) and labels.tolist() == [3, 1, 0, 1, 2]
    assert batches.classes is None and batches.shape == (1, 4, 3)
    assert [len(b) for b, _ in batches] == [2, 2, 1]


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4"])
def test_an_npy_of_any_float_becomes_float32(tmp_path, dtype):
    x = np.arange(24, dtype=dtype).reshape(2, 3, 2, 2)
    np.save(tmp_path / "x.npy", x)
    found, labels = opened(tmp_path / "x.npy").materialize()
    assert found.dtype == torch.float32 and labels is None
    assert np.array_equal(found.numpy(), x.astype(np.float32))


def test_samples_that_are_written_to_do_not_change_the_data(tmp_path):
    batches = opened(npz(tmp_path, x=np.zeros((2, 1, 2, 2), np.float32)))
    batches.example.add_(1)
    next(iter(batches))[0].add_(1)
    assert batches.materialize()[0].abs().max() == 0


GOOD = np.zeros((4, 1, 2, 2), np.float32)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"z": GOOD}, "no array 'x', it holds z"),
        ({}, "no array 'x', it holds nothing"),
        ({"x": GOOD[0]}, r"x has 3 dimensions: \[1, 2, 2\]"),
        ({"x": GOOD[:0]}, "x is empty"),
        ({"x": GOOD.astype(np.uint8)}, "x holds uint8"),
        ({"x": GOOD.astype(complex)}, "x holds complex128"),
        ({"x": np.array([None, {}], dtype=object)}, "of another kind: Object arrays"),
        ({"x": GOOD, "y": np.zeros(3, int)}, "3 labels for 4 samples"),
        ({"x": GOOD, "y": np.zeros((4, 2), int)}, r"y has the shape \[4, 2\]"),
        ({"x": GOOD, "y": np.zeros(4)}, "float64, not integers"),
        ({"x": GOOD, "y": np.array([True] * 4)}, "bool, not integers"),
        ({"x": GOOD, "y": np.array([0, 1, -1, 0])}, "negative label -1"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, arrays, message):
    assert refused(npz(tmp_path, **arrays), message).where == str(tmp_path / "data.npz")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite_in_float32_are_refused(tmp_path, value):
    x = np.zeros((4, 1, 2, 2))
    x[2, 0, 1, 0] = value
    refused(npz(tmp_path, x=x), "NaN or infinite values, first in sample 2")


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
@pytest.mark.parametrize("keep", [0, 3, 100, -5])
def test_a_truncated_numpy_file_is_refused(tmp_path, suffix, keep):
    whole = tmp_path / f"whole{suffix}"
    (np.savez if suffix == ".npz" else np.save)(whole, **({"x": GOOD} if suffix == ".npz" else {"arr": GOOD}))
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(whole.read_bytes()[:keep])
    assert refused(cut, "truncated, corrupt").where == str(cut)


def test_a_pickle_that_calls_itself_npy_is_not_loaded(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    refused(tmp_path / "x.npy", "truncated, corrupt or of another kind")


# --- the hash ---


def test_the_hash_follows_content_and_not_the_place_or_the_order(folder, tmp_path):
    whole = opened(folder).sha256
    moved = folder.rename(tmp_path / "moved")
    assert opened(moved).sha256 == whole == opened(moved, "calib", seed=5).sha256
    assert opened(moved, count=6).sha256 != whole
    (moved / "cat" / "0.png").rename(moved / "cat" / "9.png")
    renamed = opened(moved).sha256
    assert renamed != whole
    picture(moved / "cat" / "9.png", value=1)
    assert opened(moved).sha256 != renamed


def test_the_hash_covers_how_images_are_prepared(folder):
    plain = pool_of(folder)
    other = [pool_of(folder, mean=[0.5] * 3), pool_of(folder, std=[0.5] * 3), pool_of(folder, input_size=8),
             pool_of(folder, channels=1), plain.augmented(1), plain.augmented(2)]
    assert len({batches.sha256 for batches in (plain, *other)}) == 7
    assert plain.augmented(1).sha256 == plain.augmented(1).select([6, 5, 4, 3, 2, 1, 0]).sha256


def test_the_hash_of_arrays_covers_samples_and_labels(tmp_path):
    def of(**arrays):
        return opened(npz(tmp_path, **arrays)).sha256

    y = np.zeros(4, int)
    hashes = {of(x=GOOD), of(x=GOOD, y=y), of(x=GOOD + 1, y=y), of(x=GOOD, y=y + 1)}
    assert len(hashes) == 4
    assert of(x=GOOD, y=y) == of(x=GOOD.astype(np.float64), y=y.astype(np.int32)) and of(x=GOOD, y=y) in hashes


# --- fit to the model ---


def test_what_fits_the_model_passes(folder, tmp_path):
    check_against_model(opened(folder), (3, 8, 8), 3)
    check_against_model(opened(folder, "calib"), (3, 8, 8), 10)
    check_against_model(opened(folder), (3, 8, 8), None)
    check_against_model(opened(npz(tmp_path, x=GOOD)), (1, 2, 2), 2)
    check_against_model(opened(npz(tmp_path, x=GOOD, y=np.zeros(4, int))), (1, 2, 2), 9)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 9), (3, 224, 224), (8, 8)])
def test_another_shape_names_both(folder, shape):
    with pytest.raises(InputError, match=r"samples have the shape \[3, 8, 8\]") as caught:
        check_against_model(opened(folder), shape, 3)
    assert str(list(shape)) in caught.value.allowed


def test_labels_outside_the_classes_are_refused(folder, tmp_path):
    with pytest.raises(InputError, match="the label 2 is outside") as caught:
        check_against_model(opened(folder, "calib"), (3, 8, 8), 2)
    assert caught.value.allowed == "0 to 1"
    with pytest.raises(InputError, match="the label 10 is outside"):
        check_against_model(opened(npz(tmp_path, x=GOOD, y=np.array([0, 10, 1, 2]))), (1, 2, 2), 10)


def test_an_evaluation_folder_with_too_few_classes_would_have_wrong_labels(folder):
    with pytest.raises(InputError, match="3 classes and the model 10"):
        check_against_model(opened(folder), (3, 8, 8), 10)


# --- real data ---


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")
def test_the_real_sets():
    cifar = open_data(SHARED / "cifar10" / "calib", batch_size=32, purpose="calib", count=100, seed=1005)
    assert len(cifar) == 100 and cifar.shape == (3, 32, 32) and len(cifar.classes) == 10
    check_against_model(cifar, (3, 32, 32), 10)
    kws = open_data(SHARED / "kws" / "val.npz", batch_size=100, purpose="eval")
    assert len(kws) == 900 and kws.shape == (1, 49, 10)
    check_against_model(kws, (1, 49, 10), 12)


def test_without_labels_the_samples_stay_and_nothing_is_known_about_them(folder, tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((3, 1, 2, 2), np.float32), y=np.arange(3))
    for path in (folder, tmp_path / "a.npz"):
        labelled = open_data(path, batch_size=2, purpose="calib", seed=3)
        bare = labelled.without_labels()
        assert labelled.labels is not None and bare.labels is None and bare.classes is None
        assert all(y is None for _, y in bare)
        assert torch.equal(bare.materialize()[0], labelled.materialize()[0])
