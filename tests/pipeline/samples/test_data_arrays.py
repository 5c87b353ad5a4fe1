"""Data of numpy files, the hash of what is read, and its fit to the model."""

from pathlib import Path

import numpy as np
import pytest
import torch

from isobit.pipeline.errors import InputError
from isobit.pipeline.samples.data import check_against_model, open_data
from tests.examples.sample_files import GOOD, npz, opened, picture, pool_of, refused

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"


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
        assert torch.equal(labelled.known_labels, labelled.labels)
        with pytest.raises(ValueError, match="have no labels"):
            _ = bare.known_labels
