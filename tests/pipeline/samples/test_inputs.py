"""A model's input shape from every place that may tell it, and the sample sets that are opened for it."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from isobit.pipeline.errors import InputError
from isobit.pipeline.model.modelfile import LoadedModel
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.samples.arrays import WantedInputs
from isobit.pipeline.samples.data import array_batches
from isobit.pipeline.samples.inputs import (
    ImageOptions,
    InputShape,
    InputSize,
    exported_shape,
    image_channels,
    in_model_order,
    input_rank,
    open_samples,
    peek_shape,
    samples_at,
    shape_without_data,
    wanted_inputs,
)


def loaded(channels=3, arch=None):
    net = nn.Sequential(nn.Conv2d(channels, 2, 1), nn.Flatten(), nn.LazyLinear(3))
    net(torch.zeros(1, channels, 4, 4))
    return LoadedModel(net.eval(), None, "net", "0" * 64, arch)


def exported(channels=1):
    program = torch.export.export(nn.Flatten(), (torch.zeros(2, channels, 4, 5),),
                                  dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    return LoadedModel(None, program, "net", "0" * 64, None)


def test_channels_come_from_the_option_the_program_or_the_first_convolution():
    assert image_channels(loaded(1), None) == 1
    assert image_channels(exported(1), None) == 1
    assert image_channels(loaded(1), InputSize(3, 4, 4)) == 3
    with pytest.raises(InputError, match="takes 12 channels"):
        image_channels(loaded(12), None)


def test_an_exported_program_knows_its_shape():
    assert exported_shape(exported()) == (1, 4, 5)
    assert exported_shape(loaded()) is None


def test_the_first_place_that_tells_wins(tmp_path):
    gone = tmp_path / "gone"  # nobody looks at it where something else tells
    sized = ImageOptions(size=InputSize(None, 8, 8))
    assert shape_without_data(loaded(), sized, gone) == InputShape((3, 8, 8), "`input_size`")
    sized = ImageOptions(resize=(8, 9))
    assert shape_without_data(loaded(), sized, gone) == InputShape((3, 8, 9), "`resize`")
    assert shape_without_data(exported(), ImageOptions(), gone) == InputShape((1, 4, 5), "the .pt2 file")
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 12, 4, 4), np.float32))
    assert shape_without_data(loaded(12), ImageOptions(), tmp_path / "a.npz").shape == (12, 4, 4)
    assert shape_without_data(loaded(arch="resnet18"), ImageOptions(), None).shape == (3, 224, 224)
    assert shape_without_data(loaded(arch="regnet_x_600mf"), ImageOptions(), None).shape == (3, 224, 224)
    with pytest.raises(InputError, match="shape of the model's input is not known"):
        shape_without_data(loaded(), ImageOptions(), None)


def test_a_header_tells_the_shape_and_pixels_are_not_read(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 3, 4, 5), np.float32))
    assert peek_shape(tmp_path / "a.npy", 3) == (3, 4, 5)
    Image.effect_noise((60, 70), 9).save(tmp_path / "whole.png")
    folder = tmp_path / "images" / "class"
    folder.mkdir(parents=True)
    (folder / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:900])
    assert peek_shape(tmp_path / "images", 1) == (1, 70, 60)


def test_places_without_a_shape_are_refused(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK")
    np.savez(tmp_path / "flat.npz", x=np.zeros(3))
    (tmp_path / "empty").mkdir()
    for path, text in (("a.npz", "truncated, corrupt"), ("gone.npy", "No such file"),
                       ("flat.npz", r"x has 1 dimensions: \[3\]"), ("empty", "holds no images")):
        with pytest.raises(InputError, match=text):
            peek_shape(tmp_path / path, 3)


@pytest.fixture
def images(tmp_path):
    for index in range(4):
        (tmp_path / "set" / f"c{index}").mkdir(parents=True)
        Image.new("RGB", (6, 6), (50 * index, 0, 0)).save(tmp_path / "set" / f"c{index}" / "a.png")
    return tmp_path / "set"


def everything(pool):
    return pool.checked()


def test_images_are_converted_cropped_and_normalised(images):
    options = ImageOptions((0.5,), (0.25,), InputSize(None, 4, 4))
    chosen, proven, notes = open_samples(loaded(1), load_recipe("minmax_w8a8"), images, images, options, everything)
    assert chosen.shape == proven.shape == (1, 4, 4)
    assert next(iter(proven))[0].min() == pytest.approx(-2)
    assert proven.labels.tolist() == [0, 1, 2, 3] and len(chosen) == 4
    assert notes == ["4 calibration samples are there, the recipe asks for up to 1,024: all are taken"]


def test_what_a_user_may_have_overlooked_is_said(images, tmp_path):
    recipe = load_recipe("minmax_w8a8", ["images.count=4"])
    assert "not normalised" in open_samples(loaded(), recipe, images, None, ImageOptions(), everything)[2][0]
    [note] = open_samples(loaded(), recipe, images, None, ImageOptions((123.7, 116.3, 103.5), (0.2,)), everything)[2]
    assert note.startswith("`mean` has a value above 1 (123.7,116.3,103.5)") and "0.485" in note
    assert not open_samples(loaded(), recipe, images, None, ImageOptions((0.5,), (1.0,)), everything)[2]
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 3, 6, 6), np.float32))
    assert "arrays are used as they are" in open_samples(loaded(), recipe, tmp_path / "a.npz", None,
                                                         ImageOptions((0.5,), (0.5,)), everything)[2][0]
    with pytest.raises(InputError, match=r"\[3, 9, 9\]"):
        open_samples(loaded(), recipe, tmp_path / "a.npz", None, ImageOptions(size=InputSize(None, 9, 9)), everything)


def test_the_draw_chooses_from_everything_and_no_more_is_opened(images):
    Image.new("RGB", (9, 9)).save(images / "c1" / "a.png")
    recipe = load_recipe("minmax_w8a8", ["images.count=2"])

    def draw(pool):
        assert len(pool) == 4 and pool.labels.tolist() == [0, 1, 2, 3] and pool.batch_size == 32
        return pool.select([3, 0]).checked()

    chosen, proven, _ = open_samples(loaded(), recipe, images, None, ImageOptions(), draw)
    assert chosen.labels.tolist() == [3, 0] and proven is None
    with pytest.raises(InputError, match="different sizes"):  # all of the evaluation set is looked at
        open_samples(loaded(), recipe, images, images, ImageOptions(), draw)


def test_an_example_has_the_shape_and_a_batch_of_one():
    assert InputShape((3, 4, 5)).example.shape == (1, 3, 4, 5)


class Two(nn.Module):
    """Two inputs, the second with a default."""

    def forward(self, left, right=None):
        """Their sum."""
        return left if right is None else left + right


class Both(nn.Module):
    """Two inputs."""

    def forward(self, left, right):
        """Their sum."""
        return left + right


def test_a_networks_forward_names_its_inputs():
    two = LoadedModel(Two(), None, "two", "", None)
    assert wanted_inputs(two) == WantedInputs(("left", "right"), 1)
    assert wanted_inputs(exported()).names == ("input",) and wanted_inputs(loaded()).names == ("input",)
    assert wanted_inputs(LoadedModel(None, None, "none", "", None)) == WantedInputs()


def test_samples_are_brought_into_the_models_order():
    given = array_batches((torch.zeros(2, 3), torch.ones(2, 1)), None, 2, "calib", "memory", ["right", "left"])
    assert in_model_order(LoadedModel(Two(), None, "two", "", None), given).shapes == ((1,), (3,))
    assert in_model_order(loaded(), given) is given


def test_several_shapes_are_known_from_headers_or_a_function(tmp_path):
    two = LoadedModel(Two(), None, "two", "", None)
    np.savez(tmp_path / "a.npz", left=np.zeros((2, 5)), right=np.zeros((2, 7), np.int32))
    (tmp_path / "mine.py").write_text("import numpy as np\n\ndef f():\n    yield np.zeros(5), np.zeros(7, np.int32)\n")
    for place in (tmp_path / "a.npz", tmp_path / "mine.py:f"):
        shape = shape_without_data(LoadedModel(Both(), None, "two", "", None), ImageOptions(), place)
        assert (shape.shape, shape.more) == ((5,), ((7,),)) and [x.dtype for x in shape.example] == [
            torch.float32, torch.int32]
    assert samples_at(tmp_path / "a.npz", wanted_inputs(two)) == 2
    assert samples_at(tmp_path / "mine.py:f", wanted_inputs(two)) is None


def test_the_rank_is_that_of_the_file_the_size_or_the_first_layer():
    assert input_rank(exported(), None) == 4 and input_rank(loaded(), None) == 4
    assert input_rank(LoadedModel(nn.Conv1d(1, 1, 1), None, "net", "", None), None) == 3
    assert input_rank(LoadedModel(nn.Linear(1, 1), None, "net", "", None), None) is None
    assert input_rank(LoadedModel(nn.Linear(1, 1), None, "net", "", None), InputSize(1, 2, 3)) == 4


def test_images_are_resized_without_a_crop_in_any_order_of_channels(images):
    options = ImageOptions(resize=(4, 5), channels="bgr", pixel_range=(0.0, 255.0))
    chosen, _, notes = open_samples(
        loaded(), load_recipe("minmax_w8a8", ["images.count=4"]), images, None, options, everything)
    assert chosen.shape == (3, 4, 5) and not notes
    x, _ = chosen.materialize()
    assert x[:, 2, 0, 0].tolist() == [0, 50, 100, 150] and x[:, :2].abs().max() == 0


class Difference(nn.Module):
    def forward(self, first, *others):
        return first - others[-1]


def test_a_model_of_any_number_of_inputs_takes_every_array(tmp_path):
    model = LoadedModel(Difference(), None, "net", "0" * 64, None)
    wanted = wanted_inputs(model)
    assert wanted == WantedInputs(("first",), 1, any_others=True)
    assert wanted.among(["b", "y", "first", "y.other", "a"]) == ("first", "b", "a")
    assert wanted.among(["y"]) == ("x",)  # which is then said to be missing
    arrays = {name: np.full((4, 3), value, np.float32) for value, name in enumerate(("z", "first", "a"))}
    path = tmp_path / "three.npz"
    np.savez(path, **arrays, y=np.zeros(4, np.int64))
    batches, *_ = open_samples(model, load_recipe("minmax_w8a8"), path, None, ImageOptions(), everything)
    assert in_model_order(model, batches).samples.names == ("first", "z", "a")
