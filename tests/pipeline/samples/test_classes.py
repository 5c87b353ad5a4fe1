"""Files of class names: with ids or without, and folders that are only some of the classes."""

import pytest
import torch

from isobit.pipeline.errors import InputError
from isobit.pipeline.samples.classes import Classes, read_classes
from isobit.pipeline.samples.data import check_against_model, open_data
from tests.examples.sample_files import picture


def written(tmp_path, text):
    (tmp_path / "names.txt").write_text(text)
    return tmp_path / "names.txt"


def test_ids_are_words_with_a_digit_and_names_follow(tmp_path):
    found = read_classes(written(tmp_path, "n01 tench\nn02 great white shark\n\n"))
    assert found == Classes(("tench", "great white shark"), ("n01", "n02"))
    assert [found.number(name) for name in ("n02", "tench", "n01 tench", "n03")] == [1, 0, 0, None]
    assert read_classes(written(tmp_path, "African elephant\nIndian elephant\n")).ids == ()
    assert read_classes(written(tmp_path, "cat\ndog")).names == ("cat", "dog")


@pytest.mark.parametrize("text", ["", "cat\n\ndog\n", "cat\ndog\ncat\n"])
def test_lines_that_are_no_classes_are_refused(tmp_path, text):
    with pytest.raises(InputError, match="no lines, an empty one, or one twice") as caught:
        read_classes(written(tmp_path, text))
    assert caught.value.field == "classes"


def test_what_is_no_text_file_is_refused(tmp_path):
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path, tmp_path / "gone.txt", tmp_path / "bytes.txt"):
        with pytest.raises(InputError, match="text") as caught:
            read_classes(path)
        assert caught.value.where == str(path)


def test_a_folder_may_have_some_of_the_classes_in_any_order(tmp_path):
    for name in ("n09", "n02"):
        picture(tmp_path / "set" / name / "0.png")
    names = written(tmp_path, "n09 zebra\nn01 tench\nn02 shark\n")
    batches = open_data(tmp_path / "set", batch_size=2, purpose="eval", classes=names)
    assert batches.classes == ("n09 zebra", "n01 tench", "n02 shark")
    assert torch.equal(batches.labels, torch.tensor([2, 0]))
    check_against_model(batches, [(3, 8, 8)], 3)
    with pytest.raises(InputError, match="the file of classes has 3 classes and the model 4"):
        check_against_model(batches, [(3, 8, 8)], 4)


def test_a_folder_that_is_none_of_the_classes_is_named(tmp_path):
    picture(tmp_path / "set" / "n03" / "0.png")
    with pytest.raises(InputError, match="the class folder 'n03' is not in the file of `classes`") as caught:
        open_data(tmp_path / "set", batch_size=2, purpose="eval", classes=written(tmp_path, "n01 a\nn02 b\n"))
    assert "Did you mean" in caught.value.hint
