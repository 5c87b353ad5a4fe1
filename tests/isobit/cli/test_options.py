"""Numbers side by side or with commas, devices that are there, and the defaults of names."""

import pytest
import torch

from isobit.backends.base import BACKENDS
from isobit.cli.options import (
    DeviceProfile,
    TargetName,
    default_out,
    join_numbers,
    parse_arch_args,
    parse_channels,
    parse_input_size,
    parse_numbers,
    parse_pixel_range,
    parse_resize,
    recipe_edits,
    resolve_device,
)
from isobit.pipeline.errors import InputError
from isobit.pipeline.samples.inputs import InputSize


@pytest.mark.parametrize(("given", "joined"), [
    (["m.pth", "--mean", "0.5", "0.4", "0.3", "--json"], ["m.pth", "--mean", "0.5,0.4,0.3", "--json"]),
    (["--mean", "0.5,0.4,0.3", "m.pth"], ["--mean", "0.5,0.4,0.3", "m.pth"]),
    (["--std", "0.5,", "0.4,", "0.3"], ["--std", "0.5,0.4,0.3"]),
    (["--input-size", "3", "32", "32", "--mean", "-1", "0", "1"], ["--input-size", "3,32,32", "--mean", "-1,0,1"]),
    (["--mean=0.5", "7"], ["--mean=0.5", "7"]),
    (["--seed", "1", "2"], ["--seed", "1", "2"]),
    (["--mean"], ["--mean"]),
])
def test_numbers_after_their_options_become_one_argument(given, joined):
    assert join_numbers(given) == joined


def test_numbers_are_text_joined_by_commas():
    assert parse_numbers("--mean", None) is None
    assert parse_numbers("--mean", "0.5") == (0.5,)
    assert parse_numbers("--mean", "0.1,0.2,0.3") == (0.1, 0.2, 0.3)
    with pytest.raises(InputError, match="'a,b' is not a list of numbers"):
        parse_numbers("--std", "a,b")


def test_input_size_is_a_side_or_a_shape():
    assert parse_input_size(None) is None
    assert parse_input_size("224") == InputSize(None, 224, 224)
    assert parse_input_size("1,49,10") == InputSize(1, 49, 10)
    for wrong in ("big", "3,4", "0", "3,-1,4", ""):
        with pytest.raises(InputError, match="is not a size"):
            parse_input_size(wrong)


def test_a_resize_is_height_and_width():
    assert parse_resize("240x320") == (240, 320) and parse_resize(None) is None
    for wrong in ("240", "240,320", "0x4", "9x99999", "axb", ""):
        with pytest.raises(InputError, match="is not a size"):
            parse_resize(wrong)


def test_channels_and_pixel_ranges_are_names():
    assert parse_channels("bgr") == "bgr" and parse_channels(None) is None
    assert parse_pixel_range("-1..1") == (-1, 1)
    for parse, wrong in ((parse_channels, "argb"), (parse_pixel_range, "0-255")):
        with pytest.raises(InputError, match=wrong):
            parse(wrong)


def test_targets_and_profiles_of_the_help_are_those_that_are_there():
    [target] = TargetName.__metadata__
    [profile] = DeviceProfile.__metadata__
    for name in BACKENDS.names():
        assert name in target.help
        assert len(BACKENDS.get(name).profiles) == 1 or all(of in profile.help for of in BACKENDS.get(name).profiles)


def test_arguments_of_a_network_have_types():
    texts = ["model_name=ghostnet_100", "width=0.5", "classes=10", "deep=true", "act=None", "stages=[1, 2]", "x=1e-3"]
    assert parse_arch_args(texts) == {
        "model_name": "ghostnet_100", "width": 0.5, "classes": 10, "deep": True, "act": None, "stages": [1, 2],
        "x": 0.001,
    }
    assert parse_arch_args(None) == {}


@pytest.mark.parametrize("texts", [["width"], ["=1"], ["a b=1"], ["a=1", "a=2"], ["a=[1"], ["a=!!python/name:os.x"]])
def test_arguments_of_a_network_that_cannot_be_read(texts):
    with pytest.raises(InputError) as error:
        parse_arch_args(texts)
    assert error.value.field == "arch_args" and texts[-1] in error.value.where


def with_devices(monkeypatch, count):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_auto_takes_the_gpu_where_there_is_one(monkeypatch):
    with_devices(monkeypatch, 2)
    assert [resolve_device(text) for text in ("auto", "cpu", "cuda", "cuda:1")] == ["cuda", "cpu", "cuda", "cuda:1"]
    with pytest.raises(InputError, match="there are 2 CUDA") as error:
        resolve_device("cuda:2")
    assert "cuda:0, cuda:1" in error.value.allowed


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    with_devices(monkeypatch, 0)
    assert resolve_device("auto") == "cpu"
    with pytest.raises(InputError, match="--device cuda") as error:
        resolve_device("cuda")
    assert "CUDA" in error.value.what
    with pytest.raises(InputError, match="Did you mean 'cuda'"):
        resolve_device("cude")


def test_seed_comes_after_the_other_edits():
    assert recipe_edits(["a=1"], 7) == ["a=1", "seed=7"]
    assert recipe_edits(None, None) == []


def test_the_default_folder_names_model_recipe_and_target():
    assert default_out("net", "qdrop_w4a4", "onnx").as_posix() == "artifacts/net-qdrop_w4a4-onnx"
