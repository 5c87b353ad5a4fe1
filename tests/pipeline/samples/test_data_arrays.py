"""Data of numpy files, the hash of what is read, and its fit to the model."""

from pathlib import Path

import numpy as np
import pytest
import torch

from isobit.pipeline.errors import InputError
from isobit.pipeline.samples.arrays import WantedInputs
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
        ({"x": GOOD[0, 0, 0]}, r"x has 1 dimensions: \[2\]"),
        ({"x": GOOD[:0]}, "x is empty"),
        ({"x": GOOD.astype(np.uint8)}, "x holds uint8"),
        ({"x": GOOD.astype(complex)}, "x holds complex128"),
        ({"x": np.array([None, {}], dtype=object)}, "of another kind: Object arrays"),
        ({"x": GOOD, "y": np.zeros(3, int)}, "3 labels for 4 samples"),
        ({"x": GOOD, "y": np.array(3)}, r"y has the shape \[\]"),
        ({"x": GOOD, "y": np.array(["a"] * 4)}, "values of the type '<U1' cannot be read"),
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


# --- several inputs, other ranks, other types and other targets ---

LEFT, RIGHT = np.arange(24, dtype=np.float64).reshape(4, 3, 2), np.arange(4, dtype=np.int64)[:, None]
WANTED = WantedInputs(("left", "right"), 2)


def test_several_inputs_are_read_by_name_in_the_order_of_the_model(tmp_path):
    path = npz(tmp_path, right=RIGHT, left=LEFT, y=np.array([1, 0, 1, 2]), unused=np.zeros(9))
    batches = opened(path, wanted=WANTED)
    assert batches.shapes == ((3, 2), (1,)) and batches.samples.names == ("left", "right")
    (left, right), labels = batches.materialize()
    assert (left.dtype, right.dtype) == (torch.float32, torch.int64) and labels.tolist() == [1, 0, 1, 2]
    assert np.array_equal(left.numpy(), LEFT) and right.tolist() == RIGHT.tolist()
    assert [[tuple(part.shape) for part in x] for x, _ in batches] == [[(3, 3, 2), (3, 1)], [(1, 3, 2), (1, 1)]]
    assert [tuple(part.shape) for part in batches.example] == [(1, 3, 2), (1, 1)]
    turned = batches.ordered(["right", "left"])
    assert turned.shapes == ((1,), (3, 2)) and turned.example[1].shape == (1, 3, 2)
    check_against_model(batches, ((3, 2), (1,)), 3)
    with pytest.raises(InputError, match=r"the shape \[1\], \[3, 2\]"):
        check_against_model(turned, ((3, 2), (1,)), 3)
    with pytest.raises(InputError, match="the data has no 'third'"):
        batches.ordered(["left", "third"])


def test_an_input_that_the_model_needs_and_the_file_lacks_is_named(tmp_path):
    refused(npz(tmp_path, left=LEFT), "no array 'right', which is an input of the model; it holds left", wanted=WANTED)
    refused(npz(tmp_path, left=LEFT, right=RIGHT[:3]), "right has 3 samples, and left has 4", wanted=WANTED)
    refused(npz(tmp_path, left=LEFT, right=RIGHT.astype(np.uint8)), "right holds uint8", wanted=WANTED)


def test_an_input_with_a_default_may_be_left_out(tmp_path):
    optional = WantedInputs(("left", "right"), 1)
    assert opened(npz(tmp_path, left=LEFT), wanted=optional).shapes == ((3, 2),)
    assert opened(npz(tmp_path, left=LEFT, right=RIGHT), wanted=optional).shapes == ((3, 2), (1,))
    assert opened(npz(tmp_path, x=LEFT), wanted=optional).shapes == ((3, 2),)


def test_one_input_is_x_or_has_its_name(tmp_path):
    for name in ("x", "audio"):
        batches = opened(npz(tmp_path, **{name: LEFT}), wanted=WantedInputs(("audio",), 1))
        assert batches.shape == (3, 2) and batches.samples.names == () and batches.ordered(["any"]).shape == (3, 2)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.bool_])
def test_integers_of_a_network_are_kept(tmp_path, dtype):
    x, _ = opened(npz(tmp_path, x=RIGHT.astype(dtype))).materialize()
    assert np.array_equal(x.numpy(), RIGHT.astype(dtype)) and x.numpy().dtype == dtype


def test_targets_that_are_no_classes_are_handed_on_as_they_are(tmp_path):
    values = opened(npz(tmp_path, x=GOOD, y=np.arange(8.0).reshape(4, 2)))
    assert values.labels is None and values.targets.dtype == torch.float32
    assert [target.tolist() for _, target in values] == [[[0, 1], [2, 3], [4, 5]], [[6, 7]]]
    masks = opened(npz(tmp_path, x=GOOD, y=np.zeros((4, 2, 2), np.uint8)))
    assert masks.labels is None and masks.targets.dtype == torch.int64
    named = opened(npz(tmp_path, x=GOOD, **{"y.box": np.arange(4.0), "y.kind": np.arange(4)}), "calib")
    assert [int(target["kind"]) for target in named.targets] == list(named.order)
    refused(npz(tmp_path, x=GOOD, **{"y.box": np.arange(3.0)}), "y.box has 3 labels for 4 samples")


def test_a_set_is_shown_in_a_line(tmp_path):
    shown = repr(opened(npz(tmp_path, left=LEFT, right=RIGHT), wanted=WANTED))
    assert shown.startswith("Batches(4 samples of [3, 2], [1] from '") and len(shown) < 200


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
    left, right = (opened(npz(tmp_path, left=LEFT, right=RIGHT + n), wanted=WANTED).sha256 for n in (0, 1))
    assert left != right and of(x=GOOD, y=y[:, None]) not in hashes
    assert of(x=GOOD, y=y) == of(x=GOOD.astype(np.float64), y=y.astype(np.int32)) and of(x=GOOD, y=y) in hashes


# --- fit to the model ---


def test_what_fits_the_model_passes(folder, tmp_path):
    check_against_model(opened(folder), [(3, 8, 8)], 3)
    check_against_model(opened(folder, "calib"), [(3, 8, 8)], 10)
    check_against_model(opened(folder), [(3, 8, 8)], None)
    check_against_model(opened(npz(tmp_path, x=GOOD)), [(1, 2, 2)], 2)
    check_against_model(opened(npz(tmp_path, x=GOOD, y=np.zeros(4, int))), [(1, 2, 2)], 9)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 9), (3, 224, 224), (8, 8)])
def test_another_shape_names_both(folder, shape):
    with pytest.raises(InputError, match=r"samples have the shape \[3, 8, 8\]") as caught:
        check_against_model(opened(folder), [shape], 3)
    assert str(list(shape)) in caught.value.allowed


def test_labels_outside_the_classes_are_refused(folder, tmp_path):
    with pytest.raises(InputError, match="the label 2 is outside") as caught:
        check_against_model(opened(folder, "calib"), [(3, 8, 8)], 2)
    assert caught.value.allowed == "0 to 1"
    with pytest.raises(InputError, match="the label 10 is outside"):
        check_against_model(opened(npz(tmp_path, x=GOOD, y=np.array([0, 10, 1, 2]))), [(1, 2, 2)], 10)


def test_an_evaluation_folder_with_too_few_classes_would_have_wrong_labels(folder):
    with pytest.raises(InputError, match="3 classes and the model 10"):
        check_against_model(opened(folder), [(3, 8, 8)], 10)


# --- real data ---


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")
def test_the_real_sets():
    cifar = open_data(SHARED / "cifar10" / "calib", batch_size=32, purpose="calib", count=100, seed=1005)
    assert len(cifar) == 100 and cifar.shape == (3, 32, 32) and len(cifar.classes) == 10
    check_against_model(cifar, [(3, 32, 32)], 10)
    kws = open_data(SHARED / "kws" / "val.npz", batch_size=100, purpose="eval")
    assert len(kws) == 900 and kws.shape == (1, 49, 10)
    check_against_model(kws, [(1, 49, 10)], 12)


def test_without_labels_the_samples_stay_and_nothing_is_known_about_them(folder, tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((3, 1, 2, 2), np.float32), y=np.arange(3))
    for path in (folder, tmp_path / "a.npz"):
        labelled = open_data(path, batch_size=2, purpose="calib", seed=3)
        bare = labelled.without_labels()
        assert labelled.labels is not None and bare.labels is None and bare.classes is None
        assert all(y is None for _, y in bare)
        assert torch.equal(bare.materialize()[0], labelled.materialize()[0])
        assert labelled.classes_shown == [[label] for label in labelled.labels.tolist()] and bare.classes_shown is None
