"""TorchScript archives: their code does not run unasked; the answer names the calls that convert them."""

import warnings
import zipfile
from pathlib import Path

import pytest
import torch

from isobit.pipeline.errors import InputError
from isobit.pipeline.model.formats.torchscript import is_torchscript
from isobit.pipeline.model.modelfile import load_model
from tests.examples.model_files import assert_same


@pytest.fixture
def archive(folder, net):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(net.eval(), torch.randn(1, 1, 4, 4)).save("model.pt")
    return Path("model.pt")


def test_it_is_refused_with_the_calls_that_convert_it(archive):
    assert is_torchscript(archive)
    with pytest.raises(InputError, match="TorchScript archive") as caught:
        load_model(archive, "net.py:tiny")
    assert "torch.jit.load('model.pt').state_dict()" in caught.value.hint
    assert "torch.onnx.export(" in caught.value.hint and caught.value.field == "trust_pickle"


def test_the_weights_of_a_trusted_one_are_taken(archive, net):
    assert_same(load_model(archive, "net.py:tiny", trust_pickle=True), net)


def test_a_damaged_one_is_refused(archive):
    with zipfile.ZipFile(archive) as source:
        members = {name: source.read(name) for name in source.namelist()}
    with zipfile.ZipFile(archive, "w") as target:
        for name, data in members.items():
            target.writestr(name, b"def def" if name.endswith(".py") else data)
    with pytest.raises(InputError, match="corrupt"):
        load_model(archive, "net.py:tiny", trust_pickle=True)
