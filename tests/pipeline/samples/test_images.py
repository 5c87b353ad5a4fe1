"""Folders of images that hold anything, and image files that claim anything."""

import os
import socket
import struct
import zlib

import pytest
from PIL import Image

from isobit.pipeline.errors import InputError
from isobit.pipeline.samples import images
from isobit.pipeline.samples.data import open_data
from isobit.pipeline.samples.images import header_size, image_steps, list_images


@pytest.fixture
def folder(tmp_path):
    """Two classes with two images each."""
    for label in ("cat", "dog"):
        (tmp_path / "set" / label).mkdir(parents=True)
        for index in range(2):
            Image.new("RGB", (8, 8), (9 * index, 0, 0)).save(tmp_path / "set" / label / f"{index}.png")
    return tmp_path / "set"


def png(width, height):
    """A header that claims a size, and no more."""
    data = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + data + struct.pack(">I", zlib.crc32(data))


# --- links ---


@pytest.mark.parametrize(("link", "target"), [
    ("loop", "."), ("loop", ".."), ("loop", "cat"), ("cat/loop", ".."), ("cat/loop", "."), ("cat/x.png", "x.png"),
    ("x.png", "x.png"), ("cat/x.png", ".."), ("gone", "/nowhere/at/all"), ("cat/gone.png", "missing.png"),
])
def test_links_that_lead_to_nothing_new_are_left_out_with_a_note(folder, link, target):
    (folder / link).symlink_to(target)
    listing = list_images(folder)
    assert listing.files == ("cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png") and listing.classes == ("cat", "dog")
    assert len(listing.notes) == 1 and f"'{link}' leads" in listing.notes[0]
    batches = open_data(folder, batch_size=2, purpose="eval")
    assert batches.notes == listing.notes and len(batches) == 4


def test_links_to_files_and_classes_elsewhere_are_followed(folder, tmp_path):
    other = tmp_path / "store" / "zebra"
    other.mkdir(parents=True)
    (folder / "dog" / "0.png").rename(other / "0.png")
    (folder / "dog" / "0.png").symlink_to(other / "0.png")
    (folder / "zebra").symlink_to(other)
    (tmp_path / "linked").symlink_to(folder)
    listing = list_images(tmp_path / "linked")
    assert listing.files == ("cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png", "zebra/0.png") and not listing.notes


def test_many_links_are_one_note(folder):
    for index in range(5):
        (folder / "cat" / f"l{index}").symlink_to(folder)
    (note,) = list_images(folder).notes
    assert note.startswith("5 link(s)") and note.endswith(" and 2 more")


# --- what is no file ---


def fifo(path):
    os.mkfifo(path)


def bound_socket(path):
    socket.socket(socket.AF_UNIX).bind(str(path))


def device(path):
    path.symlink_to("/dev/zero")


@pytest.mark.filterwarnings("ignore:unclosed")
@pytest.mark.parametrize("make", [fifo, bound_socket, device])
@pytest.mark.parametrize("place", ["x.png", "cat/x.png"])
def test_what_is_no_file_is_refused_by_its_name(folder, make, place, monkeypatch):
    monkeypatch.chdir(folder)  # a socket's path must be short
    make(folder / "x.png") if make is not bound_socket else make("x.png")
    os.rename(folder / "x.png", folder / place)
    with pytest.raises(InputError, match="not a regular file") as caught:
        list_images(folder)
    assert caught.value.where == str(folder / place)
    with pytest.raises(InputError, match="not a regular file"):
        header_size(folder / place)


def test_a_folder_may_have_an_image_s_name_and_any_depth(folder):
    deep = folder / "cat" / "x.png"
    for _ in range(300):
        deep = deep / "d"
    os.makedirs(deep)
    Image.new("RGB", (8, 8)).save(deep / "a.png")
    assert len(list_images(folder).files) == 5


def test_names_may_be_any_bytes(folder):
    os.rename(folder / "cat" / "0.png", os.fsencode(folder / "cat") + b"/\xff\xfe.png")
    batches = open_data(folder, batch_size=2, purpose="eval")
    assert len(batches.sha256) == 64 and batches.augmented(0).materialize()[0].shape == (4, 3, 8, 8)


# --- pixels ---


def test_a_picture_that_claims_any_size_is_refused_by_its_header(folder):
    for size in ((100_000, 100_000), (2**31 - 1, 2**31 - 1), (9000, 8000)):
        (folder / "cat" / "0.png").write_bytes(png(*size))
        with pytest.raises(InputError, match="pixels|cannot be read") as caught:
            open_data(folder, batch_size=2, purpose="eval", input_size=8)
        assert caught.value.where.endswith("cat/0.png")


def test_a_strip_is_refused_where_fitting_it_would_make_it_enormous(folder):
    Image.new("RGB", (1, 300_000)).save(folder / "cat" / "0.png")
    assert header_size(folder / "cat" / "0.png") == (1, 300_000)
    with pytest.raises(InputError, match=r"when it is fitted to 224"):
        header_size(folder / "cat" / "0.png", image_steps(input_size=224))


def test_postscript_by_the_name_of_a_picture_is_not_opened(folder):
    text = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    (folder / "cat" / "0.png").write_bytes(text)
    with pytest.raises(InputError, match="not an image of a known format"):
        header_size(folder / "cat" / "0.png")


def test_whatever_a_reader_raises_names_the_file(folder, monkeypatch):
    def broken(*arguments):
        raise IndexError("list index out of range")

    monkeypatch.setattr(Image, "open", broken)
    with pytest.raises(InputError, match="cannot be read: list index out of range"):
        header_size(folder / "cat" / "0.png")


@pytest.mark.parametrize("name", images.FORMATS)
def test_every_format_of_the_endings_is_read(tmp_path, name):
    Image.init()
    if name not in Image.SAVE:
        pytest.skip(f"this Pillow has no {name}")
    Image.new("RGB", (8, 6)).save(tmp_path / "x.png", name)
    assert header_size(tmp_path / "x.png") == (8, 6)
