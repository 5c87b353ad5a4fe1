"""A folder of pictures, for all tests of samples."""

import pytest

from tests.examples.sample_files import picture


@pytest.fixture
def folder(tmp_path):
    """Three classes with 3, 0 and 4 images, and what operating systems leave behind."""
    for name, count in (("cat", 3), ("dog", 0), ("zebra", 4)):
        (tmp_path / "set" / name).mkdir(parents=True)
        for index in range(count):
            picture(tmp_path / "set" / name / f"{index}.png")
    (tmp_path / "set" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "set" / "cat" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "set" / "cat" / "._0.png").write_bytes(b"x")
    return tmp_path / "set"
