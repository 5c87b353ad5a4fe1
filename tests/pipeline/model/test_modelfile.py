"""Model files: every usual way of saving is read, no file runs code unasked, and each fault is one InputError."""

import argparse
import contextlib
import itertools
import os
import pickle
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from isobit.pipeline.artifact.manifest import sha256_file
from isobit.pipeline.errors import InputError
from isobit.pipeline.model.modelfile import LoadedModel, as_loaded, build_arch, load_model
from tests.examples.model_files import assert_same, refused, saved

pytestmark = pytest.mark.usefixtures("folder")


# --- what is accepted ---


@pytest.mark.parametrize("arch", ["net.py:tiny", "./net.py:tiny", "nets_under_test:tiny"])
def test_a_state_dict_with_an_arch(net, arch):
    path = saved(net.state_dict())
    loaded = load_model(path, arch)
    assert_same(loaded, net)
    assert (loaded.name, loaded.arch, loaded.sha256) == ("model", arch, sha256_file(Path(path)))


def test_a_dict_with_arch_and_kwargs():
    net = build_arch("squeezenet1_1", {"num_classes": 5})
    content = {"arch": "squeezenet1_1", "kwargs": {"num_classes": 5, "dropout": 0.1}, "state_dict": net.state_dict()}
    loaded = load_model(saved(content))
    assert_same(loaded, net)
    assert loaded.arch == "squeezenet1_1" and loaded.module.classifier[0].p == 0.1


def test_kwargs_of_the_file_go_to_the_arch_of_the_option():
    torch.manual_seed(0)
    net = build_arch("net.py:tiny", {"classes": 5})
    path = saved({"arch": "net.py:tiny", "kwargs": {"classes": 5}, "state_dict": net.state_dict()})
    assert_same(load_model(path, "net.py:tiny"), net)


@pytest.mark.parametrize(
    "arch", ["os:system", "net.py:tiny", "net.py", "torch.hub:load", "nets_under_test:tiny", ":", "../net.py:tiny"]
)
def test_a_file_names_no_code(net, arch, folder):
    (folder / "nets_under_test.py").write_text("import os\nos.mkdir('evil_was_here')\n")
    content = {"arch": arch, "kwargs": {"command": "mkdir evil_was_here"}, "state_dict": net.state_dict()}
    error = refused(saved(content), "names code to run")
    assert "`arch`" in error.hint and error.exit_code == 2
    assert not os.path.exists("evil_was_here")


@pytest.mark.parametrize(
    ("arch", "kwargs", "message"),
    [
        ("resnet18", {"weights": "IMAGENET1K_V1"}, "no argument 'weights'"),
        ("resnet18", {"progress": True}, "no argument 'progress'"),
        ("resnet18", {"pretrained": True}, "no argument 'pretrained'"),
        ("resnet18", {"norm_layer": "os.system"}, "norm_layer=os.system"),
        ("resnet18", {"num_clases": 10}, "no argument 'num_clases'"),
        ("resnet18", {"num_classes": "10"}, "num_classes=10"),
        ("resnet18", {"num_classes": True}, "num_classes=True"),
        ("squeezenet1_1", {"dropout": float("nan")}, "dropout=nan"),
        ("resnet18", {"num_classes": torch.zeros(1)}, "something else than plain values"),
        ("resnet18", {"num_classes": [[[[[[1]]]]]]}, "something else than plain values"),
        ("resnet18", ["num_classes"], "`kwargs` are a list"),
        ("resnet18", {1: 2}, "`kwargs` are a dict"),
        ("resnet18", {"layers": [1, 1]}, "raised an error: TypeError"),
        ("resnet18", {"num_classes": 10**12}, "takes more than|raised an error"),
        ("resnet18", {"width_per_group": 10**9}, "takes more than|raised an error"),
        ("mnasnet2_0", {"norm_layer": "os.system"}, "no argument 'norm_layer'"),
        ("mobilenet_v2", {"width_mult": 1e30}, "takes more than|raised an error"),
        ("mobilenet_v2", {"inverted_residual_setting": [[6, 16, 10**9, 1]]}, "takes more than .* modules"),
        ("torchvision.models.resnet18", None, "no network"),
        ("_resnet", None, "no network"),
        ("list_models", None, "no network"),
        ("fasterrcnn_resnet50_fpn", {"weights_backbone": "DEFAULT"}, "no network"),
    ],
)
def test_arguments_of_a_file_are_plain_known_and_no_larger_than_its_weights(arch, kwargs, message):
    content = {"arch": arch, "kwargs": kwargs, "state_dict": {"fc.weight": torch.zeros(10, 4)}}
    started = time.monotonic()
    assert refused(saved(content), message).exit_code == 2
    assert time.monotonic() - started < 5


def test_a_claimed_number_of_classes_takes_no_memory():
    weights = {"fc.bias": torch.zeros(1).expand(10**10)}
    refused(saved(weights), "speak of|do not fit|takes more than", arch="resnet18")


@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_tensors_that_are_no_plain_numbers_are_refused():
    sparse = torch.eye(3).to_sparse()
    refused(saved({"a": sparse}), "'a' is", arch="resnet18")
    refused(saved({"a": torch.zeros(3, device="meta")}), "'a' is", arch="resnet18")


@pytest.mark.parametrize(
    ("average", "path"),
    [("model_ema", "model_ema"), ("state_dict_ema", "state_dict_ema"), ("ema_state_dict", "ema_state_dict"),
     ("ema", "ema.shadow"), ("model_ema", "model_ema.module")],
)
def test_of_several_weights_one_is_taken_and_the_other_can_be(net, average, path):
    other = build_arch("net.py:tiny", {})
    first, _, inner = path.partition(".")
    ema = {inner: other.state_dict()} if inner else other.state_dict()
    file = saved({"model": net.state_dict(), first: ema, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}})
    loaded = load_model(file, "net.py:tiny")
    assert_same(loaded, net)
    assert f"`weights={path}`" in loaded.notes[0] and "'model' was taken" in loaded.notes[0]
    for key in {path, first}:
        loaded = load_model(file, "net.py:tiny", weights=key)
        assert_same(loaded, other)
        assert not loaded.notes
    assert path in refused(file, "no weights under 'mode_ema'", arch="net.py:tiny", weights="mode_ema").allowed


def test_weights_of_an_averaged_model(net):
    average = torch.optim.swa_utils.AveragedModel(net)
    assert_same(load_model(saved(average.state_dict()), "net.py:tiny"), net)


@pytest.mark.parametrize("heads", [False, True])
def test_a_network_whose_published_weights_need_other_arguments(heads):
    arch = "googlenet"
    net = build_arch(arch, {"aux_logits": heads, "transform_input": True})
    loaded = load_model(saved(net.state_dict()), arch)
    assert_same(loaded, net)
    assert loaded.module.transform_input
    assert "transform_input=True" in loaded.notes[0]
    own = saved({"arch": arch, "kwargs": {"transform_input": False}, "state_dict": net.state_dict()})
    assert not load_model(own).module.transform_input


def test_the_option_wins_over_the_arch_in_the_file(net):
    path = saved({"arch": "no_such_package:net", "state_dict": net.state_dict()})
    assert_same(load_model(path, "net.py:tiny"), net)


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
def test_a_training_checkpoint(net, key):
    checkpoint = {"epoch": 3, "optimizer": {"state": {}}, key: net.state_dict(), "args": argparse.Namespace(lr=0.1)}
    assert_same(load_model(saved(checkpoint), "net.py:tiny"), net)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_keys_of_wrapped_modules(net, prefix):
    weights = {prefix + key: value for key, value in net.state_dict().items()}
    assert_same(load_model(saved({"model": weights}), "net.py:tiny"), net)


def test_a_module_that_is_called_module_keeps_its_keys(folder):
    (folder / "own.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self):\n"
        "        super().__init__()\n        self.module = nn.Linear(2, 2)\n"
    )
    net = build_arch("own.py:Net", {})
    assert_same(load_model(saved(net.state_dict()), "own.py:Net"), net)
    wrapped = {f"module.{key}": value for key, value in net.state_dict().items()}
    assert_same(load_model(saved(wrapped), "own.py:Net"), net)


@pytest.mark.parametrize("prefix", ["model.", "net.", "model.backbone."])
def test_the_network_of_a_lightning_checkpoint(net, prefix):
    weights = {prefix + key: value for key, value in net.state_dict().items()} | {"loss.weight": torch.ones(3)}
    content = {"state_dict": weights, "epoch": 1, "hyper_parameters": {"lr": 0.1}, "pytorch-lightning_version": "2.4"}
    loaded = load_model(saved(content), "net.py:tiny")
    assert_same(loaded, net)
    assert loaded.notes == (f"the network is what the file calls '{prefix}': 1 tensors outside of it were left",)


def test_of_two_networks_in_one_state_dict_either_is_taken(net):
    torch.manual_seed(1)
    other = build_arch("net.py:tiny", {})
    weights = {f"{name}.{key}": value for name, each in (("net", net), ("ema_net", other))
               for key, value in each.state_dict().items()}
    file = saved({"state_dict": weights, "callbacks": {}})
    loaded = load_model(file, "net.py:tiny")
    assert_same(loaded, net)
    assert "`weights=ema_net` takes the other network" in loaded.notes[-1]
    for key in ("ema_net", "state_dict.ema_net"):
        assert_same(load_model(file, "net.py:tiny", weights=key), other)
    refused(file, "no weights under 'em_net'", arch="net.py:tiny", weights="em_net")


def test_numbers_beside_the_weights_are_left(net):
    loaded = load_model(saved({**net.state_dict(), "epoch": 3, "best": None}), "net.py:tiny")
    assert_same(loaded, net)
    assert loaded.notes == ("beside the weights the file holds epoch, best: left",)


def test_arguments_that_the_user_gives():
    torch.manual_seed(0)
    net = build_arch("net.py:tiny", {"classes": 5})
    file = saved(net.state_dict())
    assert_same(load_model(file, "net.py:tiny", arch_args={"classes": 5}), net)
    wrong = saved({"kwargs": {"classes": 3}, "state_dict": net.state_dict()})
    assert_same(load_model(wrong, "net.py:tiny", arch_args={"classes": 5}), net)
    error = refused(file, "no argument 'clases', which `arch_args` give", arch="net.py:tiny", arch_args={"clases": 5})
    assert error.field == "arch_args" and "classes" in error.hint


def test_the_old_file_format_and_missing_batch_norm_counters(net):
    weights = {key: value for key, value in net.state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save(weights, "old.pth", _use_new_zipfile_serialization=False)
    assert_same(load_model("old.pth", "net.py:tiny"), net)


def test_half_precision_weights_become_float32(net):
    weights = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    module = load_model(saved(weights), "net.py:tiny").module
    assert module[0].weight.dtype == torch.float32
    assert torch.equal(module[0].weight, weights["0.weight"].float())


def test_a_torchvision_name_with_other_classes_than_imagenet():
    net = build_arch("squeezenet1_1", {"num_classes": 7})
    loaded = load_model(saved(net.state_dict()), "squeezenet1_1")
    assert_same(loaded, net)
    assert loaded.module(torch.zeros(1, 3, 64, 64)).shape == (1, 7)


def test_an_exported_program(net):
    x = torch.randn(1, 1, 4, 4)
    torch.export.save(torch.export.export(net.eval(), (x,)), "net.pt2")
    loaded = load_model("net.pt2")
    assert loaded.module is None and loaded.arch is None and loaded.name == "net"
    assert torch.equal(loaded.exported.module()(x), net(x))
    os.rename("net.pt2", "net.pth")
    assert load_model("net.pth").exported is not None


# --- pickles ---


class Evil:
    """What an attacker would put into a file: unpickling it makes a folder."""

    def __reduce__(self):
        return (os.mkdir, ("evil_was_here",))


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"state_dict": {}, "args": x}])
def test_a_pickle_is_refused_and_runs_nothing(wrap):
    error = refused(saved(wrap(Evil())), "can run any code")
    assert "`trust_pickle=True`" in error.hint
    assert not os.path.exists("evil_was_here")


def test_a_pickled_module_needs_trust():
    net = nn.Sequential(nn.Linear(2, 2))
    for content in (net, {"model": net}):
        path = saved(content)
        assert "Sequential" in refused(path, "holds more than weights").what
        loaded = load_model(path, trust_pickle=True)
        assert_same(loaded, net)
        assert loaded.arch is None


SCRIPT = """\
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x):
        return self.layer(x)


if __name__ == "__main__":
    import torch
    torch.save(Net(), "whole.pth")
    torch.save({"model": Net(), "epoch": 3}, "inside.pth")
"""


def test_a_pickle_of_a_script_finds_its_classes_in_the_file_of_arch(folder):
    (folder / "train.py").write_text(SCRIPT)
    subprocess.run([sys.executable, "train.py"], check=True)
    arches = ("train.py:Net", "train.py:nothing_there", "train.py", "train:Net")
    for path, arch in itertools.product(("whole.pth", "inside.pth"), arches):
        refused(path, "holds more than weights", arch=arch)
        loaded = load_model(path, arch, trust_pickle=True)
        assert loaded.module(torch.zeros(1, 2)).shape == (1, 2)
    assert "`arch=path/to/script.py" in refused("whole.pth", "cannot be loaded", trust_pickle=True).hint
    sys.modules.pop("train", None)


def test_a_pickled_data_parallel_is_its_module():
    net = nn.Sequential(nn.Linear(2, 2))
    assert_same(load_model(saved(nn.DataParallel(net)), trust_pickle=True), net)


def test_a_trusted_pickle_whose_class_is_gone_shows_the_cause(folder):
    (folder / "gone_under_test.py").write_text("from torch import nn\n\n\nclass Net(nn.Linear):\n    pass\n")
    path = saved(build_arch("gone_under_test:Net", {"in_features": 1, "out_features": 1}))
    assert isinstance(load_model(path, trust_pickle=True).module, nn.Linear)
    os.remove("gone_under_test.py")
    del sys.modules["gone_under_test"]
    refused(path, "cannot be loaded: ModuleNotFoundError: No module named 'gone_under_test'", trust_pickle=True)


def rewritten(path, change):
    """Writes the zip archive at `path` again with `change(name, data)` in place of each member's data."""
    with zipfile.ZipFile(path) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile("rewritten.pt2", "w") as archive:
        for name, data in members:
            archive.writestr(name, change(name, data))
    return "rewritten.pt2"


def test_a_pickle_inside_an_exported_program_is_refused_and_runs_nothing(net):
    torch.export.save(torch.export.export(net.eval(), (torch.randn(1, 1, 4, 4),)), "net.pt2")
    torch.save(Evil(), "evil.pt")
    evil = Path("evil.pt").read_bytes()
    path = rewritten("net.pt2", lambda name, data: evil if name.endswith("sample_inputs/model.pt") else data)
    refused(path, "can run any code")
    assert not os.path.exists("evil_was_here")
    with contextlib.suppress(InputError):  # the control: the same file does run code where it is trusted
        load_model(path, trust_pickle=True)
    assert os.path.exists("evil_was_here")


def test_objects_and_compiled_code_inside_an_exported_program_are_refused(net):
    torch.export.save(torch.export.export(net.eval(), (torch.randn(1, 1, 4, 4),)), "net.pt2")
    for member in ("net/data/constants/opaque_obj_0", "net/data/constants/custom_obj_0", "net/data/aotinductor/m/m.so"):
        with zipfile.ZipFile("net.pt2") as source, zipfile.ZipFile("other.pt2", "w") as archive:
            for info in source.infolist():
                archive.writestr(info.filename, source.read(info))
            archive.writestr(member, pickle.dumps(1))
        assert member in refused("other.pt2", "can run any code").what


def test_the_network_is_the_one_that_is_there():
    module = nn.Linear(2, 2)
    assert LoadedModel(module, None, "net", "", None).network is module
    with pytest.raises(ValueError, match="net holds neither"):
        LoadedModel(None, None, "net", "", None).network  # noqa: B018


def test_a_module_from_no_file_is_loaded_as_it_is():
    module = nn.Linear(2, 2)
    module.register_buffer("mask", torch.full((2,), -float("inf")))
    loaded = as_loaded(module)
    assert loaded.module is module and (loaded.name, loaded.sha256, as_loaded(loaded)) == ("Linear", "", loaded)
