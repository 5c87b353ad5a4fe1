"""Files of safetensors: weights by name."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from isobit.pipeline.errors import InputError
from isobit.pipeline.model.formats.safetensors_file import is_safetensors
from isobit.pipeline.model.modelfile import load_model
from tests.examples.model_files import assert_same


@pytest.mark.parametrize("name", ["model.safetensors", "model.bin"])
def test_weights_are_read_whatever_the_file_is_called(folder, net, name):
    save_file(net.state_dict(), name, metadata={"format": "pt"})
    assert is_safetensors(Path(name))
    assert_same(load_model(name, "net.py:tiny"), net)


def test_one_network_of_several(folder, net):
    save_file({f"student.{key}": value.clone() for key, value in net.state_dict().items()}
              | {f"teacher.{key}": value + 1 for key, value in net.state_dict().items()}, "model.safetensors")
    assert_same(load_model("model.safetensors", "net.py:tiny", weights="student"), net)


@pytest.mark.parametrize("change", [lambda data: data[:-4], lambda data: data[:9] + b"\xff" + data[10:],
                                    lambda data: data.replace(b"F32", b"F99", 1)])
def test_a_damaged_file_is_refused(folder, change):
    save_file({"weight": torch.ones(3)}, "model.safetensors")
    Path("model.safetensors").write_bytes(change(Path("model.safetensors").read_bytes()))
    with pytest.raises(InputError, match="corrupt"):
        load_model("model.safetensors", "net.py:tiny")
