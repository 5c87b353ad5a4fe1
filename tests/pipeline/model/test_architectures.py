"""The papers' networks: stages and widths, the units that are found in them, and weights under other key names."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
import torchvision
from torch import nn

from isobit import build as story
from isobit.backends.base import BACKENDS
from isobit.pipeline.model.architectures import ARCHITECTURES, mnasnet2_0, regnet_x_600mf, torchvision_keys
from isobit.pipeline.model.modelfile import LoadedModel, build_arch, load_model
from isobit.pipeline.recipe.file import load_recipe


def convolutions(module):
    return [m for m in module.modules() if isinstance(m, nn.Conv2d)]


def test_regnet_x_600mf_has_the_stages_of_the_paper():
    stages = list(regnet_x_600mf().trunk_output)
    assert [len(stage) for stage in stages] == [1, 3, 5, 7]
    assert [convolutions(stage)[-1].out_channels for stage in stages] == [48, 96, 240, 528]
    assert {m.in_channels // m.groups for s in stages for m in convolutions(s) if m.kernel_size == (3, 3)} == {24}
    assert sum(p.numel() for p in regnet_x_600mf().parameters()) == 6_196_040


def test_mnasnet2_0_has_twice_the_channels():
    found = convolutions(mnasnet2_0())
    assert [m.out_channels for m in found[:3]] == [64, 64, 32] and found[1].groups == 64
    assert [stack[-1].layers[6].out_channels for stack in mnasnet2_0().layers[8:14]] == [48, 80, 160, 192, 384, 640]
    assert [len(stack) for stack in mnasnet2_0().layers[8:14]] == [3, 3, 3, 2, 4, 1]
    assert found[-1].out_channels == 1280 and len(found) + 1 == 53
    assert mnasnet2_0(num_classes=7).classifier[1].out_features == 7


@pytest.mark.parametrize(
    ("arch", "units"),
    [("resnet18", 10), ("mobilenet_v2", 20), ("regnet_x_600mf", 18), ("regnet_x_3_2gf", 27), ("mnasnet2_0", 21)],
)
def test_the_papers_units_are_found(arch, units):
    loaded = LoadedModel(build_arch(arch, {"num_classes": 10}).eval(), None, arch, "", arch)
    recipe, backend = load_recipe("qdrop_w4a4"), BACKENDS.get("reference")
    assert len(story.plan(loaded, recipe, backend, torch.zeros(1, 3, 64, 64)).units) == units


# --- key names ---


def in_original_names(net):
    """A RegNet's weights under the names of its first publication, by building that tree of modules."""
    def block(ours):
        f = OrderedDict()
        for name in "abc":
            f |= {name: ours.f.get_submodule(name)[0], f"{name}_bn": ours.f.get_submodule(name)[1]}
        shortcut = {} if ours.proj is None else {"proj": ours.proj[0], "bn": ours.proj[1]}
        return nn.ModuleDict({**shortcut, "f": nn.ModuleDict(f)})

    tree = {"stem": nn.ModuleDict({"conv": net.stem[0], "bn": net.stem[1]})}
    for number, stage in enumerate(net.trunk_output, start=1):
        tree[f"s{number}"] = nn.ModuleDict({f"b{n}": block(ours) for n, ours in enumerate(stage, start=1)})
    return nn.ModuleDict({**tree, "head": nn.ModuleDict({"fc": net.fc})}).state_dict()


def in_flat_names(net):
    """A MobileNetV2's weights with the leaves of each block in one flat sequence."""
    for block in net.features[1:18]:
        block.conv = nn.Sequential(*(leaf for leaf in block.conv.modules() if not list(leaf.children())))
    return net.state_dict()


@pytest.mark.parametrize(
    ("arch", "renamed", "sample"),
    [
        ("regnet_x_600mf", in_original_names, "s4.b7.f.c_bn.running_var"),
        ("regnet_x_3_2gf", in_original_names, "s1.b1.bn.weight"),
        ("mobilenet_v2", in_flat_names, "features.17.conv.7.bias"),
    ],
)
def test_weights_under_the_other_usual_names_load(tmp_path, arch, renamed, sample):
    net = build_arch(arch, {}).eval()
    expected = net.state_dict()
    other = renamed(net)
    assert sample in other and sample not in expected
    torch.save({"model": {f"module.{key}": value for key, value in other.items()}}, tmp_path / "model.pth.tar")
    found = load_model(tmp_path / "model.pth.tar", arch).module.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize("arch", sorted(ARCHITECTURES))
def test_a_bare_state_dict_loads_with_and_without_its_version(tmp_path, arch):
    """MNASNet asks for the version of its layout, which a plain dict of tensors does not carry."""
    net = build_arch(arch, {}).eval()
    for content in (net.state_dict(), dict(net.state_dict())):
        torch.save(content, tmp_path / "model.pth")
        found = load_model(tmp_path / "model.pth", arch)
        assert found.arch == arch
        assert all(torch.equal(value, net.state_dict()[key]) for key, value in found.module.state_dict().items())


@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v2", "mnasnet2_0", "regnet_x_400mf", "efficientnet_b0"])
def test_torchvisions_own_names_stay(arch):
    names = build_arch(arch, {}).state_dict()
    assert list(torchvision_keys(names)) == list(names)


def test_no_name_of_ours_is_torchvisions():
    assert not set(ARCHITECTURES) & set(torchvision.models.list_models())
