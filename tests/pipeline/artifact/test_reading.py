"""What is read of a folder that somebody may have changed has an end."""

from __future__ import annotations

import os

import pytest

from isobit.pipeline.artifact import reading
from isobit.pipeline.errors import InputError


def test_a_file_of_the_largest_size_is_read_and_one_beyond_it_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MOST_BYTES", 8)
    path = tmp_path / "manifest.json"
    path.write_bytes(b"x" * 8)
    assert reading.read_bounded(path) == b"x" * 8
    path.write_bytes(b"x" * 9)
    with pytest.raises(InputError, match="manifest.json has more than") as found:
        reading.read_bounded(path)
    assert found.value.field == "artifact"


def test_what_is_no_file_is_refused_before_it_is_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # whose reader would wait for ever
    for name in ("pipe", "."):
        with pytest.raises(InputError, match="not a file"):
            reading.read_bounded(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        reading.read_bounded(tmp_path / "gone")
