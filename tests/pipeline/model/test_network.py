"""Networks by name: arguments that published weights need, and arguments of files that nobody has to trust.

What files can make of them is tested in test_modelfile.py.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import pytest
import torch
from torch import nn

from isobit.pipeline.errors import InputError
from isobit.pipeline.model.network import (
    _fits,
    arch_file,
    bounded_build,
    build_arch,
    check_arguments,
    published_arguments,
)


@pytest.mark.parametrize("arch", ["googlenet", "inception_v3"])
def test_published_weights_that_need_a_transformed_input(arch):
    first, *others = published_arguments(arch)
    assert first == {"transform_input": True, "aux_logits": True}
    assert {"transform_input": True, "aux_logits": False} in others


def test_published_weights_of_another_size():
    assert {"image_size": 384} in published_arguments("vit_b_16")


@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v3_small", "mnasnet2_0", "net.py:tiny"])
def test_networks_that_are_published_as_they_are_built(arch):
    assert published_arguments(arch) == []


def test_asking_builds_and_downloads_nothing(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("called")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fail)
    monkeypatch.setattr(nn.Module, "__init__", fail)
    published_arguments("vit_b_32")


@pytest.mark.parametrize("arch", ["deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"])
def test_networks_for_segmentation_download_no_backbone(arch, monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("called")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fail)
    assert published_arguments(arch) == ([{"aux_loss": True}] if "deeplab" in arch else [])
    assert build_arch(arch, {"num_classes": 3})(torch.zeros(2, 3, 32, 32))["out"].shape == (2, 3, 32, 32)


def test_a_detector_by_name_is_answered_with_what_can_be_taken():
    with pytest.raises(InputError, match="takes one tensor") as error:
        build_arch("ssdlite320_mobilenet_v3_large", {})
    assert "backbone and heads" in error.value.hint and error.value.field == "arch"


def test_arguments_of_helpers_and_classes_are_known():
    assert check_arguments("mobilenet_v3_small", {"width_mult": 0.5, "num_classes": 3}, "f")
    assert check_arguments("mnasnet2_0", {"dropout": 0.1}, "f")
    assert check_arguments("resnet18", None, "f") == {}


@pytest.mark.parametrize(
    ("value", "hint", "fits"),
    [
        (1, int, True), (True, int, False), (1, float, True), ("1", int, False), (None, int | None, True),
        ([1, 2], list[int], True), ([1, "2"], list[int], False), ("ab", Sequence[str], False), ((1,), tuple, True),
        ("os.system", Callable[..., nn.Module], False), ("x", Any, True), ("x", type, False),
        ({}, dict[str, int], True), ("a", Literal["a", "b"], True), ("c", Literal["a", "b"], False),
    ],
)  # fmt: skip
def test_kinds_of_values(value, hint, fits):
    assert _fits(value, hint) is fits


def test_a_build_is_stopped_where_it_takes_too_much():
    weights = {"a": torch.zeros(10)}
    with bounded_build(weights):
        build_arch("squeezenet1_1", {})
    with pytest.raises(InputError, match="takes more than .* MiB"), bounded_build(weights):
        torch.empty(2**29)
    with pytest.raises(InputError, match="modules"), bounded_build(weights):
        nn.Sequential(*(nn.Identity() for _ in range(2000)))


def test_files_among_arches():
    assert str(arch_file("a/b.py:net")) == "a/b.py" and str(arch_file("b.py")) == "b.py"
    assert arch_file("package.py_module:net") is None and arch_file("resnet18") is None and arch_file(None) is None
