"""Pickles that would keep their reader busy for good are refused in no time; those of torch.save are not."""

import io
import pickle
import time
from collections import OrderedDict

import pytest
import torch
from torch import nn

from isobit.pipeline.errors import InputError
from isobit.pipeline.model.modelfile import load_model
from isobit.pipeline.model.pickle_check import check_pickles


def nested_key(levels):
    """A dict whose key is a tuple of two equal tuples of two equal tuples, and so on."""
    code = [b"\x80\x02}(K\x01\x85q\x00"]
    code += [b"h" + bytes([level]) + b"\x86q" + bytes([level + 1]) for level in range(levels)]
    return b"".join(code) + b"K\x01u."


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_what_torch_saves_passes(tmp_path, zipped, protocol):
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.randn(4, 2)).sum().backward()
    optimizer.step()
    content = {"model": net.state_dict(), "optimizer": optimizer.state_dict(), "args": OrderedDict(a=(1, (2, (3,))))}
    path = tmp_path / "a.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    check_pickles(path)


@pytest.mark.parametrize("code", [nested_key(60), b"\x80\x02" + b"(" * 1000 + b"t" * 999 + b".", b"\x80\x02)q\x00"
                                  + b"h\x00\x85q\x00" * 40 + b"."])  # fmt: skip
def test_tuples_without_end_are_refused(tmp_path, code):
    path = tmp_path / "a.pth"
    path.write_bytes(code)
    started = time.monotonic()
    with pytest.raises(InputError, match="nests tuples without end"):
        load_model(path, "resnet18")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "code",
    [b"\x80\x02c__builtin__\nbytearray\n\x8a\x05\x00\xe4\x0b\x54\x02\x85R.",
     b"\x80\x04\x8c\x08builtins\x94\x8c\x09bytearray\x94\x93\x8a\x05\x00\xe4\x0b\x54\x02\x85R."],
)  # fmt: skip
def test_memory_by_a_number_is_refused(tmp_path, code):
    path = tmp_path / "a.pth"
    path.write_bytes(code)
    with pytest.raises(InputError, match="asks for memory"):
        load_model(path, "resnet18")


@pytest.mark.parametrize(
    "code", [b"\x80\x02\x8e" + b"\xff" * 7 + b"\x00.", b"\x80\x02X\xff\xff\xff\x7fabc.", b"", b"t."]
)
def test_damaged_pickles_are_refused(tmp_path, code):
    path = tmp_path / "a.pth"
    path.write_bytes(code)
    with pytest.raises(InputError, match="damaged|empty"):
        load_model(path, "resnet18")


def test_small_nesting_is_no_fault(tmp_path):
    file = io.BytesIO()
    pickle.dump({((1, 2), (3, (4,))): 1}, file, protocol=2)
    data = file.getvalue()
    path = tmp_path / "a.pth"
    path.write_bytes(data * 5)
    check_pickles(path)
