"""Numpy files: a header that lies, a bomb and a damaged archive are refused before memory is taken for them."""

import io
import os
import struct
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from isobit.pipeline import memory
from isobit.pipeline.errors import InputError
from isobit.pipeline.samples import numpy_files
from isobit.pipeline.samples.arrays import Arrays, WantedInputs, header_shapes, targets_at
from isobit.pipeline.samples.numpy_files import read_header

GOOD = np.zeros((4, 1, 2, 2), np.float32)
HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 1, 2, 2), }"


VALUES = GOOD.tobytes()


def npy(header=HEADER, values=VALUES, version=1):
    """The bytes of an `.npy` that says `header` about `values`."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text + values


def npz(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def refused(path, match):
    """Refused by both readers of headers where the header is at fault, quickly and within little memory."""
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(InputError, match=match) as caught:
        Arrays.opened(path)
    assert time.perf_counter() - start < 5 and tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()
    assert caught.value.where == str(path)


SHAPES = ["(4000000000, 1, 200, 200)", "(4, 1, 2, 3)", "(4, 1, 2, 1)", "(4, 1, 2, 2000000000000000000000000000000)"]
HEADERS = {
    **{shape: (HEADER.replace("(4, 1, 2, 2)", shape), "the header claims") for shape in SHAPES},
    "negative": (HEADER.replace("(4, 1", "(-4, -1"), "not a tuple of sizes"),
    "bool": (HEADER.replace("(4, 1", "(4, True"), "not a tuple of sizes"),
    "list": (HEADER.replace("(4, 1, 2, 2)", "[4, 1, 2, 2]"), "not a tuple of sizes"),
    "digits": (HEADER.replace("(4,", f"({'9' * 5000},"), "not a dictionary"),
    "record": (HEADER.replace("'<f4'", "[('a', '<f4')]"), "arrays of records"),
    "subarray": (HEADER.replace("'<f4'", "('<f4', (1000000000,))"), "arrays of records"),
    "object": (HEADER.replace("<f4", "|O"), "Object arrays"),
    "string": (HEADER.replace("<f4", "<U400000000"), "type '<U400000000' cannot be read"),
    "commas": (HEADER.replace("<f4", "f4,f4"), "type 'f4,f4' cannot be read"),
    "number": (HEADER.replace("<f4", "f99"), "no numbers of the type 'f99'"),
    "order": (HEADER.replace("False", "1"), "fortran_order"),
    "key": (HEADER.replace("}", "'more': 1}"), "does not hold"),
    "no dict": ("[1, 2]", "does not hold"),
    "call": ("__import__('os').system('true')", "is truncated, corrupt"),
    "brackets": ("(" * 9000, "not a dictionary"),
    "minus": ("-" * 9000 + "1", "not a dictionary"),
    "binary": ("\0\1\2", "is truncated, corrupt"),
}


@pytest.mark.parametrize("name", HEADERS)
@pytest.mark.parametrize("kind", ["npy", "stored", "deflated"])
def test_headers_that_lie(tmp_path, name, kind):
    header, message = HEADERS[name]
    path = tmp_path / ("x.npy" if kind == "npy" else "x.npz")
    if kind == "npy":
        path.write_bytes(npy(header))
    else:
        npz(path, [("x.npy", npy(header))], zipfile.ZIP_STORED if kind == "stored" else zipfile.ZIP_DEFLATED)
    refused(path, message)


def test_a_header_of_any_length_is_not_read(tmp_path):
    for length in (60_000, 3_000_000_000):
        begin = b"\x93NUMPY\2\0" + struct.pack("<I", length)
        (tmp_path / "x.npy").write_bytes(begin + b" " * 100_000)
        refused(tmp_path / "x.npy", f"a header of {length:,} bytes")
    (tmp_path / "x.npy").write_bytes(npy()[:40])
    refused(tmp_path / "x.npy", "ends before its time")
    (tmp_path / "x.npy").write_bytes(npy(version=9))
    refused(tmp_path / "x.npy", "no header")


@pytest.mark.parametrize("version", [1, 2, 3])
def test_headers_of_every_version_are_read(version):
    header = read_header(io.BytesIO(npy(version=version)))
    assert header.shape == (4, 1, 2, 2) and header.dtype == np.float32 and not header.fortran
    assert header.bytes == len(npy(version=version))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_what_numpy_writes_is_read(tmp_path, save, dtype, order):
    x = np.random.default_rng(0).normal(size=(5, 3, 4, 2)).astype(dtype, order=order)
    save(tmp_path / "x.npz", x=x, y=np.arange(5, dtype=">i2"))
    np.save(tmp_path / "x.npy", x)
    for name in ("x.npz", "x.npy"):
        samples = Arrays.opened(tmp_path / name).checked(range(5))
        assert np.array_equal(np.stack([samples.read(i).numpy() for i in range(5)]), x.astype(np.float32))
        assert header_shapes(tmp_path / name, WantedInputs()) == [((3, 4, 2), np.dtype(np.float32))]
    assert Arrays.opened(tmp_path / "x.npz").labels.tolist() == [0, 1, 2, 3, 4]


def test_only_what_was_drawn_is_read(tmp_path):
    x = GOOD.copy()
    x[2] = np.nan
    np.save(tmp_path / "x.npy", x)
    samples = Arrays.opened(tmp_path / "x.npy")
    assert samples.checked([0, 3]) is samples
    with pytest.raises(InputError, match="first in sample 2"):
        samples.checked([0, 2])


# --- archives ---


@pytest.fixture
def bomb(tmp_path, monkeypatch):
    """An archive of zeros that tells the truth about itself: 64 KB, 64 MB unpacked; the free part is made as small."""
    monkeypatch.setattr(numpy_files, "SMALL", 1 << 20)
    path = tmp_path / "bomb.npz"
    header = HEADER.replace("(4, 1, 2, 2)", "(4, 1, 2048, 2048)")
    return npz(path, [("x.npy", npy(header, bytes(4 * 4 * 2048 * 2048)))], zipfile.ZIP_DEFLATED)


def test_a_bomb_is_refused_before_it_is_unpacked(bomb):
    assert bomb.stat().st_size < 1 << 17
    refused(bomb, r"bytes claim to unpack to 67,108,\d+")
    assert header_shapes(bomb, WantedInputs())[0][0] == (1, 2048, 2048)


def test_a_few_zeros_are_no_bomb(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros((64, 3, 32, 32), np.float32))
    assert len(Arrays.opened(tmp_path / "x.npz")) == 64


def test_what_does_not_fit_into_memory_is_refused(tmp_path, monkeypatch):
    np.savez(tmp_path / "x.npz", x=np.ones((4, 1, 8, 8), np.float32))
    np.save(tmp_path / "x.npy", np.ones((4, 1, 8, 8), np.float32))
    monkeypatch.setattr(memory, "available_memory", lambda: 1500)
    refused(tmp_path / "x.npz", "the archive takes .* bytes of memory, and 1,500 are free")
    assert len(Arrays.opened(tmp_path / "x.npy")) == 4  # stays on disk: one sample has to fit
    monkeypatch.setattr(memory, "available_memory", lambda: 400)
    refused(tmp_path / "x.npy", "one sample takes 256 bytes")


def patched(path, **changes):
    """The directory entry of the first member, and its local header, with other numbers."""
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\1\2")
    for name, value in changes.items():
        offset, code = {"flags": (8, "<H"), "method": (10, "<H"), "packed": (20, "<I"), "size": (24, "<I")}[name]
        struct.pack_into(code, content, entry + offset, value)
        local = {"flags": 6, "method": 8, "packed": 18, "size": 22}[name]
        struct.pack_into(code, content, local, value)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(("changes", "match"), [
    ({"flags": 1}, "is encrypted"),
    ({"method": 14}, "packed in another way"),
    ({"method": 99}, "packed in another way"),
    ({"packed": 3_000_000_000, "size": 3_000_000_000}, "more than the file has"),
    ({"size": 3_000_000_000}, "claim to unpack to 3,000,000,000"),
    ({"size": 100_000_000}, "the header claims"),
    ({"size": 40}, "truncated, corrupt"),
])
def test_an_archive_that_lies(tmp_path, changes, match):
    refused(patched(npz(tmp_path / "x.npz", [("x.npy", npy())]), **changes), match)


def test_values_that_end_early_or_differ_from_their_checksum(tmp_path):
    path = npz(tmp_path / "x.npz", [("x.npy", npy(values=b"\7" * 64))])
    content = bytearray(path.read_bytes())
    content[content.index(b"\7" * 64) + 5] ^= 1
    path.write_bytes(content)
    refused(path, "CRC")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_array_that_is_there_twice(tmp_path):
    refused(npz(tmp_path / "x.npz", [("x.npy", npy()), ("x.npy", npy())]), "'x' is there 2 times")
    labels = npy("{'descr': '<i8', 'fortran_order': False, 'shape': (4,), }", bytes(32))
    refused(npz(tmp_path / "y.npz", [("x.npy", npy()), ("y.npy", labels), ("y.npy", labels)]), "'y' is there 2 times")


def test_labels_are_judged_by_their_header(tmp_path):
    labels = npy("{'descr': '<i8', 'fortran_order': False, 'shape': (4000000000,), }", b"")
    refused(npz(tmp_path / "x.npz", [("x.npy", npy()), ("y.npy", labels)]), "the header claims")
    np.savez(tmp_path / "y.npz", x=GOOD, y=np.full(4, 2**63, np.uint64))
    refused(tmp_path / "y.npz", "y has the label 9223372036854775808")


def test_archives_within_archives_and_long_tables_of_contents(tmp_path):
    inner = npz(tmp_path / "inner.npz", [("x.npy", npy())]).read_bytes()
    refused(npz(tmp_path / "outer.npz", [("x.npy", inner)]), "no header")
    refused(npz(tmp_path / "named.npz", [("x.npz", inner), ("dir/x.npy", npy())]), "it holds x.npz, dir/x")
    many = npz(tmp_path / "many.npz", [("x.npy", npy()), *((f"{'n' * 200}{i}", b"") for i in range(5000))])
    refused(many, "table of contents is too long")


def test_pipes_and_devices_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    refused(tmp_path / "pipe.npz", "not a regular file")
    (tmp_path / "zero.npy").symlink_to("/dev/zero")
    refused(tmp_path / "zero.npy", "not a regular file")


def test_targets_of_some_samples_are_in_their_order():
    assert targets_at(["a", "b", "c"], [2, 0]) == ["c", "a"]
    assert targets_at(torch.tensor([5, 6, 7]), [2, 0]).tolist() == [7, 5]
    assert targets_at(None, [0]) is None
