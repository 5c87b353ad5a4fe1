"""Numbers side by side or with commas, devices that are there, and the defaults of names."""

import pytest
import torch

from pipeline.cli_options import default_out, join_numbers, parse_numbers, recipe_edits, resolve_device
from pipeline.errors import InputError


@pytest.mark.parametrize(("given", "joined"), [
    (["m.pth", "--mean", "0.5", "0.4", "0.3", "--json"], ["m.pth", "--mean", "0.5,0.4,0.3", "--json"]),
    (["--mean", "0.5,0.4,0.3", "m.pth"], ["--mean", "0.5,0.4,0.3", "m.pth"]),
    (["--std", "0.5,", "0.4,", "0.3"], ["--std", "0.5,0.4,0.3"]),
    (["--input-size", "3", "32", "32", "--mean", "-1", "0", "1"], ["--input-size", "3,32,32", "--mean", "-1,0,1"]),
    (["--mean=0.5", "7"], ["--mean=0.5", "7"]),
    (["--seed", "1", "2"], ["--seed", "1", "2"]),
    (["--mean"], ["--mean"]),
])
def test_numbers_behind_their_options_become_one_argument(given, joined):
    assert join_numbers(given) == joined


def test_numbers_are_one_or_one_a_channel():
    assert parse_numbers("--mean", None, 3) is None
    assert parse_numbers("--mean", "0.5", 3) == (0.5, 0.5, 0.5)
    assert parse_numbers("--mean", "0.1,0.2,0.3", 3) == (0.1, 0.2, 0.3)
    with pytest.raises(InputError, match="2 numbers for images of 3"):
        parse_numbers("--mean", "0.1,0.2", 3)
    with pytest.raises(InputError, match="'a,b' is not a list of numbers"):
        parse_numbers("--std", "a,b", 3)


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


def test_seed_comes_behind_the_other_edits():
    assert recipe_edits(["a=1"], 7) == ["a=1", "seed=7"]
    assert recipe_edits(None, None) == []


def test_the_default_folder_names_model_recipe_and_target():
    assert default_out("net", "qdrop_w4a4", "onnx").as_posix() == "artifacts/net-qdrop_w4a4-onnx"
