"""Zip archives: their sizes are known before anything is unpacked."""

import struct
import time
import zipfile

import pytest

from isobit.pipeline.errors import InputError
from isobit.pipeline.model.archive import check_archive, read_members


def written(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def refused(path, match):
    started = time.monotonic()
    with pytest.raises(InputError, match=match):
        check_archive(path)
    assert time.monotonic() - started < 2


def test_a_whole_archive(tmp_path):
    path = written(tmp_path / "a.pth", {"a/data.pkl": b"x" * 1000, "a/empty": b""})
    check_archive(path)
    assert read_members(path) == {"a/data.pkl": 1000, "a/empty": 0}


def test_an_archive_that_was_zipped_again_is_one(tmp_path):
    check_archive(written(tmp_path / "a.pth", {"a": bytes(10_000_000)}, zipfile.ZIP_DEFLATED))


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "bomb.pth"
    zeros = bytes(1 << 20)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a", "w") as member:
        for _ in range(300):
            member.write(zeros)
    refused(path, "unpacks to 314,572,800")


def directory_entry(data):
    """Where the last entry of the table of members begins."""
    return data.rfind(b"PK\x01\x02")


@pytest.mark.parametrize(("size", "match"), [(2**31, "unpacks to"), (10, "checksum|truncated")])
def test_a_size_that_lies(tmp_path, size, match):
    path = written(tmp_path / "a.pth", {"a": b"x" * 1000}, zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, directory_entry(data) + 24, size)
    path.write_bytes(data)
    refused(path, match)


def test_members_that_share_their_bytes(tmp_path):
    path = written(tmp_path / "a.pth", {"a": b"x" * 100_000, "b": b"x" * 10})
    data = bytearray(path.read_bytes())
    place = directory_entry(data)
    first = data.find(b"PK\x01\x02")
    data[place + 16 : place + 28] = data[first + 16 : first + 28]  # checksum and sizes
    data[place + 42 : place + 46] = data[first + 42 : first + 46]  # where it begins
    path.write_bytes(data)
    refused(path, "overlap")


def test_another_file_has_no_members(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"PK no zip")
    assert read_members(tmp_path / "a.pth") == {}
    refused(tmp_path / "a.pth", "truncated")


def test_a_table_that_lies_about_its_own_place(tmp_path):
    """The members then begin before the file does, where no system can read."""
    path = written(tmp_path / "a.pth", {"a": b"x" * 100, "b": b"y" * 100})
    data = bytearray(path.read_bytes())
    end = data.rfind(b"PK\x05\x06")
    data[end + 16:end + 20] = (2**31).to_bytes(4, "little")
    path.write_bytes(bytes(data))
    refused(path, "truncated, corrupt")
