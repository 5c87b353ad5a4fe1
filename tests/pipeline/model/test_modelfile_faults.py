"""Model files that are damaged, of another kind, or that do not fit: each fault is one InputError."""

import collections
import sys
from pathlib import Path

import pytest
import torch

from isobit.pipeline.errors import InputError
from isobit.pipeline.model.modelfile import as_loaded, load_model
from tests.examples.model_files import refused, saved

pytestmark = pytest.mark.usefixtures("folder")


# --- bad files ---


def test_missing_folder_empty_and_pointer(folder):
    (folder / "model.pth").write_bytes(b"")
    assert "model.pth" in refused("modle.pth", "does not exist").hint
    refused(folder / "nowhere" / "m.pth", "does not exist")
    refused(folder, "is a folder")
    refused("model.pth", "is empty")
    (folder / "model.pth").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    refused("model.pth", "Git LFS pointer")


@pytest.mark.parametrize("keep", [0.02, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["zip", "legacy", "exported"])
def test_a_truncated_file(net, kind, keep):
    path = "net.pt2" if kind == "exported" else "net.pth"
    if kind == "exported":
        torch.export.save(torch.export.export(net.eval(), (torch.randn(1, 1, 4, 4),)), path)
    else:
        torch.save(net.state_dict(), path, _use_new_zipfile_serialization=kind == "zip")
    data = Path(path).read_bytes()
    with open(path, "wb") as file:
        file.write(data[: int(len(data) * keep)])
    assert refused(path, "truncated, corrupt or not a torch file", arch="net.py:tiny").where == path


def test_a_flipped_bit_in_a_weight_is_noticed(net):
    path = saved(net.state_dict())
    data = bytearray(Path(path).read_bytes())
    data[data.find(net[3].weight.detach().numpy().tobytes()) + 5] ^= 1
    with open(path, "wb") as file:
        file.write(data)
    torch.load(path, weights_only=True)  # torch itself does not notice
    refused(path, "checksum of .* does not fit", arch="net.py:tiny")


@pytest.mark.parametrize(
    "data", [b"hello", b"\x80\x02}q\x00.", b"\x89PNG\r\n\x1a\n", bytes(1000), b"PK\x03\x04 no zip"]
)
def test_a_file_of_another_kind(folder, data):
    (folder / "other.pth").write_bytes(data)
    (folder / "other.pt2").write_bytes(data)
    refused("other.pth", "truncated, corrupt or not a torch file|no weights were found", arch="net.py:tiny")
    refused("other.pt2", "truncated, corrupt or not a torch file")


@pytest.mark.filterwarnings("ignore")
def test_a_torchscript_archive(net):
    torch.jit.save(torch.jit.script(net), "script.pt")
    assert "state_dict" in refused("script.pt", "TorchScript").hint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "an empty dict"),
        ({"epoch": 3, "loss": 0.1}, "a dict with the keys epoch, loss"),
        ([1, 2], "a list"),
        ({"state_dict": {"a": 3}}, "a dict with the keys state_dict"),
        (torch.zeros(3), "a Tensor"),
    ],
)
def test_a_file_without_weights(content, message):
    refused(saved(content), f"{message}.*no weights were found", arch="net.py:tiny")


def test_a_bare_state_dict_needs_an_arch(net):
    error = refused(saved(net.state_dict()), "holds 9 tensors and does not say which network")
    assert "`arch`" in error.allowed


# --- weights that do not fit ---


def test_the_first_differing_keys_are_named(net):
    weights = collections.OrderedDict(net.state_dict())
    weights["3.weight"] = torch.zeros(2, 5)
    del weights["1.bias"]
    weights["9.extra"] = torch.zeros(1)
    error = refused(saved(weights), "do not fit the network 'net.py:tiny'", arch="net.py:tiny")
    assert "1 missing in the file: 1.bias" in error.what
    assert "1 unknown to the network: 9.extra" in error.what
    assert "1 of another shape: 3.weight (file [2, 5], network [2, 12])" in error.what


def test_a_file_that_lacks_only_buffers_is_told_so(net):
    weights = {key: value for key, value in net.state_dict().items() if "running" not in key}
    error = refused(saved(weights), "missing in the file: 1.running_mean", arch="net.py:tiny")
    assert "2 buffer(s) of the network missing" in error.what
    assert "persistent=False" in error.hint and "trained with" not in error.hint


@pytest.mark.parametrize("kind", [torch.int64, torch.complex64])
def test_weights_of_another_kind_of_number_are_named(net, kind):
    weights = {key: value.to(kind) for key, value in net.state_dict().items()}
    error = refused(saved(weights), "do not fit the network", arch="net.py:tiny")
    assert f"of another kind of number: 0.weight (file {kind}, network torch.float32)" in error.what


def test_a_long_list_of_differing_keys_is_cut(net):
    error = refused(saved({"a": torch.zeros(1)}), "do not fit", arch="net.py:tiny")
    assert "8 missing in the file: 0.weight, 0.bias, 1.weight, ...;" in error.what


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_named(net, value):
    net[3].weight.data[0, 1] = value
    refused(saved(net.state_dict()), "'3.weight' has 1 of 24 values that are NaN or infinite", arch="net.py:tiny")
    torch.export.save(torch.export.export(net.eval(), (torch.randn(1, 1, 4, 4),)), "net.pt2")
    refused("net.pt2", "'3.weight' has 1 of 24 values")

    with pytest.raises(InputError, match=r"'3\.weight' has 1 of 24 values that are NaN or infinite") as error:
        as_loaded(net)
    assert error.value.where == "the module Sequential"


# --- arch ---


@pytest.mark.parametrize(
    ("arch", "message", "hint"),
    [
        ("resnet81", "no network 'resnet81'", "resnet18"),
        ("ResNet18", "no network 'ResNet18'", "resnet18"),
        ("regnet_x_600m", "no network 'regnet_x_600m'", "regnet_x_600mf"),
        ("retinanet_resnet50_fpn", "no network", ""),
        ("nte.py:tiny", "there is no file 'nte.py'", ""),
        ("net.py:tinny", "there is no 'tinny' in it", "tiny"),
        ("net.py:CONSTANT", "'CONSTANT' is not callable", ""),
        ("net.py:no_module", "returns a int, not a torch.nn.Module", ""),
        ("net.py:broken", "raised an error: ZeroDivisionError: in the factory", ""),
        ("no_such_package.net:tiny", "does not import: ModuleNotFoundError: No module named 'no_such_package'", ""),
        ("nets_under_test:huge", "there is no 'huge' in it", ""),
        (":tiny", "no network", ""),
    ],
)
def test_an_arch_that_cannot_be_built(net, arch, message, hint):
    error = refused(saved(net.state_dict()), message, arch=arch)
    assert hint in error.hint and arch in error.where


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("x = (", "SyntaxError"),
        ("import sys\nsys.exit('usage: train.py')", "SystemExit: usage: train.py"),
    ],
)
def test_a_file_that_does_not_import_shows_the_cause_and_the_line(folder, net, source, cause):
    (folder / "train.py").write_text(f"\n{source}\n")
    error = refused(saved(net.state_dict()), f"'train.py' does not import: {cause}", arch="train.py:tiny")
    assert "`arch=train.py:tiny`" in error.where
    sys.modules.pop("_arch_train", None)


def test_wrong_kwargs_show_the_cause(net):
    path = saved({"kwargs": {"clases": 2}, "state_dict": net.state_dict()})
    assert "classes" in refused(path, "no argument 'clases'", arch="net.py:tiny").hint


def test_the_import_path_is_left_as_it_was(net):
    before = list(sys.path)
    load_model(saved(net.state_dict()), "net.py:tiny")
    with pytest.raises(InputError):
        load_model("model.pth", "net.py:broken")
    assert sys.path == before
