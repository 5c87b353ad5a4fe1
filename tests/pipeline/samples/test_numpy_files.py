"""Names and headers of an archive's arrays, and how much all of them may claim."""

import zipfile

import numpy as np
import pytest

from isobit.pipeline.errors import InputError
from isobit.pipeline.samples import numpy_files
from isobit.pipeline.samples.numpy_files import array_names, header_in, open_archive, read_members, regular_file


@pytest.fixture
def path(tmp_path):
    np.savez(tmp_path / "a.npz", left=np.arange(6.0).reshape(3, 2), right=np.arange(3), other=np.zeros(9))
    return tmp_path / "a.npz"


def test_arrays_are_known_by_name_and_header_before_they_are_read(path):
    with regular_file(path) as file, open_archive(file) as archive:
        assert array_names(archive) == ["left", "right", "other"]
        header = header_in(archive, "left")
        assert (header.shape, header.dtype, header.bytes) == ((3, 2), np.float64, header.start + 48)
        with pytest.raises(InputError, match="no array 'x', it holds left, right, other"):
            header_in(archive, "x")


def test_only_named_arrays_are_read_each_after_its_check(path):
    seen = []
    checks = {name: lambda header: seen.append(header.shape) or header for name in ("right", "left")}
    with regular_file(path) as file, open_archive(file) as archive:
        found = read_members(file, archive, checks, "here")
    assert list(found) == ["right", "left"] and seen == [(3,), (3, 2)]
    assert np.array_equal(found["left"], np.arange(6.0).reshape(3, 2)) and found["right"].tolist() == [0, 1, 2]


def test_what_arrays_claim_together_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(numpy_files, "SMALL", 1 << 20)
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(100_000), b=np.zeros(100_000))
    with regular_file(tmp_path / "a.npz") as file, zipfile.ZipFile(file) as archive:
        assert read_members(file, archive, {"a": lambda header: header}, "here")["a"].shape == (100_000,)
        with pytest.raises(InputError, match="claim to unpack to 1,600,"):
            read_members(file, archive, dict.fromkeys("ab", lambda header: header), "here")
