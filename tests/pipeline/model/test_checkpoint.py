"""Which entries of a checkpoint are weights, and which are taken."""

import pytest
import torch
from torch import nn

from isobit.pipeline.errors import InputError
from isobit.pipeline.model.checkpoint import read_content

A, B, C = ({"w": torch.full((1,), float(value))} for value in range(3))


@pytest.mark.parametrize(
    ("content", "key", "expected"),
    [
        (A, None, A),
        ({"state_dict": A, "model": B}, None, A),
        ({"model": A, "state_dict": B}, None, B),
        ({"model": A, "model_ema": B}, "model_ema", B),
        ({"model": {"module": A}}, None, A),
        ({"net": A}, None, A),
        ({"ema": B}, None, B),
        ({"net": A, "ema": B}, None, A),
        ({"model": A, "ema": {"decay": 0.9, "shadow": B}}, "ema", B),
        ({"model": A, "ema": {"a": B, "b": C}}, "ema.b", C),
        ({"state_dict": A, "state_dict_ema": B}, None, A),
        ({"state_dict": A, "state_dict_ema": B}, "state_dict_ema", B),
        ({"model": A, "averaged": B}, "averaged", B),
        ({"ema": {"model": {"module": B}}}, None, B),
    ],
)
def test_the_weights_that_are_taken(content, key, expected):
    assert read_content(content, "f.pth", key).weights is expected


@pytest.mark.parametrize(
    ("content", "key", "message"),
    [
        (A, "model_ema", "one set of weights"),
        ({"generator": A, "critic": B}, None, "2 sets of weights"),
        ({"model": A, "ema": {"a": B, "b": C}}, "ema", "several weights"),
        ({"model": A}, "modl", "no weights under 'modl'"),
        ({"epoch": 3}, None, "keys epoch, and no weights"),
        ({("a", "b"): 3}, None, "keys tuple"),
    ],
)
def test_what_cannot_be_taken(content, key, message):
    with pytest.raises(InputError, match=message):
        read_content(content, "f.pth", key)


def test_one_network_of_several_by_the_beginning_of_its_keys():
    content = {"a.w": A["w"], "b.w": B["w"]}
    assert read_content(content, "f.pth", "b").weights == B
    with pytest.raises(InputError, match="none called 'c'") as error:
        read_content(content, "f.pth", "c")
    assert error.value.allowed.endswith("begin with: a, b")


def test_notes_are_only_for_a_choice():
    assert read_content({"model": A, "epoch": 1}, "f.pth").notes == ()
    (note,) = read_content({"model": A, "critic": C, "model_ema": B}, "f.pth").notes
    assert "'model' was taken" in note and "`weights=model_ema`" in note


def test_modules_are_weights_too():
    net = nn.Linear(1, 1)
    assert read_content({"model": nn.DataParallel(net), "ema": None}, "f.pth").weights is net
