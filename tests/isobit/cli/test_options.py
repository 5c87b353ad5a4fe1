"""Numbers side by side or with commas, devices that are there, and the defaults of names."""

import pytest
import torch

from isobit.cli.options import default_out, join_numbers, parse_input_size, parse_numbers, recipe_edits, resolve_device
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
