"""A user's decoder: loaded from a file, its answers checked, its mistakes told with their line."""

import numpy as np
import pytest

from isobit.pipeline.errors import InputError
from isobit.pipeline.samples.decoder import load_decoder

GOOD = """import numpy as np

def decode(outputs, size):
    height, width = size
    return outputs["boxes"] * [width, height, width, height], outputs["scores"], np.zeros(len(outputs["scores"]))

def none(outputs, size):
    return [], [], []

def fails(outputs, size):
    return outputs["absent"]

def alone(outputs):
    return [], [], []

def short(outputs, size):
    return np.zeros((3, 4)), np.zeros(2), np.zeros(3)

def scalar(outputs, size):
    return 0.5, 0.5, 0

def lost(outputs, size):
    return np.zeros((1, 4)), np.zeros(1), np.array([np.nan])

def huge(outputs, size):
    return np.zeros((1, 4)), np.zeros(1), np.array([1e30])
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "faces.py"
    path.write_text(GOOD)
    return path


def test_boxes_scores_and_labels_come_as_arrays(file):
    outputs = {"boxes": np.array([[0, 0, 0.5, 1]], np.float32), "scores": np.array([0.9], np.float32)}
    found = load_decoder(f"{file}:decode")(outputs, (10, 20))
    assert found.boxes.tolist() == [[0, 0, 10, 10]]
    assert (found.scores.dtype, found.labels.dtype) == (np.float32, np.int64)


def test_no_boxes_are_an_answer(file):
    found = load_decoder(f"{file}:none")({}, (10, 20))
    assert found.boxes.shape == (0, 4)
    assert len(found.scores) == len(found.labels) == 0


def test_a_failing_decoder_is_told_with_its_line(file):
    with pytest.raises(InputError, match="the decoder fails: KeyError") as error:
        load_decoder(f"{file}:fails")({"scores": np.zeros((3, 2))}, (10, 20))
    assert "faces.py:11" in error.value.where and error.value.field == "decoder"
    assert error.value.allowed == (
        "f(outputs, (height, width)) for one picture, of outputs scores [3, 2]; the size is (10, 20)")


def test_a_decoder_that_takes_other_arguments_is_refused_as_it_is_loaded(file):
    with pytest.raises(InputError, match="cannot be called: too many positional arguments") as error:
        load_decoder(f"{file}:alone")
    assert error.value.allowed.startswith("f(outputs, (height, width)): outputs are arrays by name")
    assert error.value.where == f"`decoder={file}:alone`"


def test_arrays_that_do_not_belong_together_are_refused(file):
    with pytest.raises(InputError, match=r"\[3, 4\], \[2\], \[3\]"):
        load_decoder(f"{file}:short")({}, (10, 20))


@pytest.mark.parametrize("text", ["decode", "faces.py", "faces.txt:decode", "faces.py:de code"])
def test_what_names_no_function_is_refused(text):
    with pytest.raises(InputError, match="names no function") as error:
        load_decoder(text)
    assert error.value.field == "decoder"


@pytest.mark.parametrize(("name", "what"), [
    ("scalar", r"returns arrays \[\], \[\], \[\]"), ("lost", "returns nan as a class"),
    ("huge", r"returns 1e\+30 as a class"),
])
def test_scalars_and_numbers_that_are_no_class_are_refused(file, name, what):
    with pytest.raises(InputError, match=what) as error:
        load_decoder(f"{file}:{name}")({}, (10, 20))
    assert error.value.allowed and f"{file}:{name}" in error.value.where
