"""COCO files at the door: boxes follow their picture into the input, and a file may say anything."""

import json

import numpy as np
import pytest
from PIL import Image

from isobit.pipeline.errors import InputError
from isobit.pipeline.samples.arrays import WantedInputs
from isobit.pipeline.samples.coco import box_classes, in_input
from isobit.pipeline.samples.data import check_against_model, open_data
from isobit.pipeline.samples.images import image_steps
from isobit.pipeline.samples.inputs import peek_shape, samples_at
from isobit.pipeline.samples.preparation import in_picture

PICTURES = ("a.png", "ü.png", "c.png")


def content():
    """Two categories with ids of their own, three pictures of 40x20, of which the last has no box."""
    return {
        "images": [{"id": 10 + place, "file_name": name, "width": 40, "height": 20}
                   for place, name in enumerate(PICTURES)],
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dög"}],
        "annotations": [
            {"image_id": 10, "category_id": 3, "bbox": [4, 2, 8, 10]},
            {"image_id": 11, "category_id": 7, "bbox": [0, 0, 40.0, 20], "iscrowd": 1},
            {"image_id": 10, "category_id": 7, "bbox": [30, 10, 10, 10], "iscrowd": 0},
        ],
    }


@pytest.fixture
def coco(tmp_path):
    """Writes the file beside its folder of pictures, after `change` edited its content."""

    def write(change=lambda said: None, name="val.json", folder="val", text=None):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for place, picture in enumerate(PICTURES):
            Image.new("RGB", (40, 20), (60 * place, 10, 200)).save(tmp_path / folder / picture)
        said = content()
        change(said)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(said) if text is None else text, encoding="utf-8")
        return tmp_path / name

    return write


def opened(path, **how):
    return open_data(path, batch_size=2, purpose="eval", **how)


def test_pictures_are_samples_and_boxes_are_targets(coco):
    batches = opened(coco(), resize=(10, 10), mean=[0.5], std=[0.5])
    (x, first), (_, second) = batches
    assert len(batches) == 3 and x.shape == (2, 3, 10, 10) and batches.labels is None
    assert batches.classes == ("cat", "dög") and batches.preparation.mean == (0.5,) * 3
    assert first[0]["boxes"].tolist() == [[1, 1, 3, 6], [7.5, 5, 10, 10]]  # 40x20 becomes 10x10
    assert first[0]["labels"].tolist() == [1, 0] and first[0]["iscrowd"].tolist() == [0, 0]
    assert first[1]["iscrowd"].tolist() == [1] and second[0]["boxes"].shape == (0, 4)
    assert batches.classes_shown == [[0, 1], [0], []]
    assert batches.without_labels().targets is None and batches.without_labels().sha256 != batches.sha256


def test_a_crop_moves_boxes_and_drops_what_it_cuts_off(coco):
    _, targets = opened(coco(), input_size=14).materialize()
    # 40x20 is scaled to 32x16, of which the columns 9 to 23 and the rows 1 to 15 are left.
    assert np.allclose(targets[0]["boxes"], [[0, 0.6, 0.6, 8.6]]) and targets[0]["labels"].tolist() == [1]
    assert targets[1]["boxes"].tolist() == [[0, 0, 14, 14]]


@pytest.mark.parametrize("how", [{"resize": (30, 50)}, {"input_size": (16, 12)}, {"input_size": (20, 40)}])
def test_into_the_input_and_back_is_where_it_was(how):
    steps, size = image_steps(**how), (40, 20)
    boxes = np.array([[18.0, 9.0, 21.0, 12.0], [17.5, 8.0, 22.0, 11.5]])
    assert np.allclose(in_picture(in_input(boxes, steps, size), steps, size), boxes)


def test_a_file_of_classes_numbers_the_categories(coco, tmp_path):
    (tmp_path / "names.txt").write_text("dög\nfish\ncat\n", encoding="utf-8")
    batches = opened(coco(), classes=tmp_path / "names.txt", resize=(8, 8))
    assert batches.classes == ("dög", "fish", "cat") and batches.classes_shown == [[0, 2], [2], []]
    check_against_model(batches, [(3, 8, 8)], 5)  # boxes are of classes, the first output need not be
    (tmp_path / "names.txt").write_text("cat\nfish\n")
    with pytest.raises(InputError, match="the category 'dög' is not in the file"):
        opened(coco(), classes=tmp_path / "names.txt", resize=(8, 8))


@pytest.mark.parametrize(("name", "folder"), [
    ("val.json", "val"), ("val.json", "."), ("val.json", "images/val"), ("val.json", "images"),
    ("annotations/instances_val.json", "val"), ("annotations/val.json", "images/val"),
])
def test_the_pictures_are_found_in_the_usual_places(coco, name, folder):
    assert len(opened(coco(name=name, folder=folder))) == 3


def test_the_pictures_may_be_named_and_must_be_there(coco, tmp_path):
    path = coco(folder="far/away")
    assert len(opened(path, pictures=tmp_path / "far" / "away")) == 3
    with pytest.raises(InputError, match=r"the picture 'a.png' of the annotation file is not found") as error:
        opened(path)
    assert error.value.field == "pictures"
    (tmp_path / "far" / "away" / "c.png").unlink()
    with pytest.raises(InputError, match="the image cannot be read"):
        opened(path, pictures=tmp_path / "far" / "away")


def test_sizes_are_read_where_the_file_states_none_and_must_agree_where_it_does(coco):
    def bare(said):
        for image in said["images"]:
            del image["width"]

    assert opened(coco(bare), resize=(10, 10)).targets[0]["boxes"].tolist() == [[1, 1, 3, 6], [7.5, 5, 10, 10]]
    with pytest.raises(InputError, match="has 40x20 pixels, and its annotation says 80x20"):
        opened(coco(lambda said: said["images"][1].update(width=80)), resize=(10, 10))


def test_boxes_without_an_area_are_left_out_with_a_note(coco):
    batches = opened(coco(lambda said: said["annotations"][0].update(bbox=[1, 1, 0, 5])))
    assert batches.classes_shown == [[0], [0], []] and "1 box(es) in" in batches.notes[1]


def test_a_line_says_what_was_read(coco):
    (said,) = opened(coco()).notes
    assert " has 3 pictures, " in said and " crowds, 1 pictures without boxes" in said and " 0" in said


@pytest.mark.parametrize("text", [
    "", "{", '{"images": [', "[]", "3", "null", "\ufeff{}", "[" * 100000, '{"images": ' + "9" * 5000 + "}", "\0",
    '{"images": {}, "annotations": [], "categories": []}', '{"images": [], "annotations": [], "categories": []}',
    '{"images": [3], "annotations": [], "categories": []}',
])
def test_what_is_no_annotation_file_is_refused(coco, text):
    with pytest.raises(InputError) as error:
        opened(coco(text=text))
    assert error.value.where.endswith("val.json")


@pytest.mark.parametrize(("of", "key", "value", "message"), [
    *(("annotations", key, None, f"annotations\\[0\\] has no '{key}'") for key in ("image_id", "category_id", "bbox")),
    *(("images", key, None, f"images\\[0\\] has no '{key}'") for key in ("id", "file_name")),
    *(("categories", key, None, f"categories\\[0\\] has no '{key}'") for key in ("id", "name")),
    ("annotations", "image_id", 99, r"annotations\[0\].image_id is 99, and there is none"),
    ("annotations", "image_id", True, "image_id is True, and there is none"),
    ("annotations", "category_id", [7], r"category_id is \[7\], and there is none"),
    *(("annotations", "bbox", box, r"annotations\[0\].bbox is") for box in (
        [float("nan"), 0, 1, 1], [0, 0, float("inf"), 1], [1e308, 0, 1e308, 1], [0, 0, -1, 4], [0, 0, 1], "abcd", 3,
        ["1", "2", "3", "4"], [True, 0, 1, 1], [10**400, 0, 1, 1], [[1], 2, 3, 4], {"x": 1})),
    ("annotations", "iscrowd", 2, "iscrowd is 2"),
    *(("images", "file_name", name, "a file_name leads out of the folder") for name in (
        "../a.png", "/etc/passwd", "x/../../a.png", "C:\\a.png", "..\\a.png")),
    *(("images", "file_name", name, "a file_name is") for name in ("", 3, "a\0", "\x1b[2J.png", "\ud800.png")),
    ("images", "file_name", "x" * 5000, "is not found"),
    *(("images", "width", width, "an image has the size") for width in (0, -4, 1.5, True, 10**30, "40")),
    ("images", "id", 11, "images has the id 11 twice"), ("images", "id", 1.5, "an id in images is float"),
    ("categories", "id", 3, "categories has the id 3 twice"), ("categories", "name", "dög", "have the same name"),
    ("categories", "name", "\udcff", "the name of a category is"),
])
def test_what_a_file_may_not_say_is_told_with_its_place(coco, of, key, value, message):
    def change(said):
        said[of][0].pop(key, None) if value is None else said[of][0].update({key: value})

    with pytest.raises(InputError, match=message):
        opened(coco(change), resize=(8, 8))


@pytest.mark.parametrize(("key", "allowed"), [
    ("image_id", "the ids of 'images': "), ("category_id", "the ids of 'categories': ")])
def test_an_unknown_id_is_told_with_those_that_are_known(coco, key, allowed):
    known = {}

    def change(said):
        known.update({"image_id": [one["id"] for one in said["images"]],
                      "category_id": [one["id"] for one in said["categories"]]})
        said["annotations"][0][key] = 99

    with pytest.raises(InputError, match="is 99, and there is none with this id") as error:
        opened(coco(change), resize=(8, 8))
    assert error.value.allowed == allowed + ", ".join(map(str, known[key]))
    assert "leave the annotation out" in error.value.hint


def test_of_many_known_ids_some_are_named_and_of_none_that_there_is_none(coco):
    def many(said):
        said["categories"] += [{"id": 1000 + place, "name": f"more {place}"} for place in range(20)]
        said["annotations"][0]["category_id"] = 99

    with pytest.raises(InputError) as error:
        opened(coco(many), resize=(8, 8))
    assert error.value.allowed.endswith(" more") and len(error.value.allowed) < 120
    with pytest.raises(InputError) as error:
        opened(coco(lambda said: said.update(categories=[])), resize=(8, 8))
    assert error.value.allowed == "nothing: 'categories' is empty"


def test_other_targets_have_no_classes_of_boxes():
    assert box_classes(None) is box_classes([1, 2]) is box_classes([{"mask": 1}]) is None
    assert box_classes([{"boxes": [], "labels": [2, 1, 2]}]) == [[1, 2]]


def test_shape_and_number_are_known_without_opening_more_than_one_picture(coco, tmp_path):
    path = coco(folder="far/away")
    (tmp_path / "far" / "away" / "c.png").write_text("no picture")
    assert peek_shape(path, 3, tmp_path / "far" / "away") == (3, 20, 40)
    assert samples_at(path, WantedInputs(), tmp_path / "far" / "away") == 3
