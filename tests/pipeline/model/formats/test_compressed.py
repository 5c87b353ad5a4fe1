"""Compressed model files: read like plain ones, errors name the file that was given, bombs are refused."""

import gzip
import io
import tarfile
from pathlib import Path

import pytest
import torch

from isobit.pipeline.artifact.manifest import sha256_file
from isobit.pipeline.errors import InputError
from isobit.pipeline.model.formats.compressed import plain_name, uncompressed
from isobit.pipeline.model.modelfile import load_model
from tests.examples.model_files import assert_same, saved


def packed(data, name="model.pth.gz"):
    Path(name).write_bytes(gzip.compress(data))
    return Path(name)


def test_a_packed_state_dict_is_read(folder, net):
    path = packed(Path(saved(net.state_dict())).read_bytes())
    loaded = load_model(path, "net.py:tiny")
    assert_same(loaded, net)
    assert (loaded.name, loaded.sha256) == ("model", sha256_file(path))


def test_names():
    assert [plain_name(Path(name)) for name in ("a.pth.gz", "a.pt", "a.gz")] == ["a", "a", "a"]


def test_errors_name_the_file_that_was_given(folder):
    path = packed(b"no model at all")
    with pytest.raises(InputError, match="corrupt") as caught:
        load_model(path, "net.py:tiny")
    assert caught.value.where == str(path)


@pytest.mark.parametrize("cut", [12, -3])
def test_a_damaged_file_is_refused(folder, cut):
    path = packed(torch.randn(100).numpy().tobytes())
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match="compression is damaged"):
        load_model(path)


def test_a_file_that_unpacks_without_end_is_refused(folder, monkeypatch):
    monkeypatch.setattr("isobit.pipeline.model.formats.compressed.byte_limit", lambda size: 10 * size)
    with pytest.raises(InputError, match="unpacks to more than"):
        load_model(packed(bytes(1 << 21)))


def test_a_packed_folder_is_refused(folder):
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        archive.add("net.py")
    with pytest.raises(InputError, match="packed folder"):
        load_model(packed(tar.getvalue(), "model.tar.gz"))


def test_a_plain_file_is_itself(folder):
    with uncompressed(Path("net.py")) as path:
        assert path == Path("net.py")
