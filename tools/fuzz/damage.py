"""What becomes of a good file: bytes that change whatever they mean, and members and values that change and still read.

Every form is a function of a source of chance and a file, which it writes anew. The same chance gives the same bytes.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
import random
import shutil
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tools.fuzz.protobufs import external, functions, protobuf
from tools.fuzz.values import NUMBERS, change_tree, dumped, json_tree, reseal, yaml_text, yaml_tree

Form = Callable[[random.Random, Path], None]
CANARY = "canary"  # the folder that a pickle makes when it is run
WORDS = (0, 1, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**40, 2**62, 2**63 - 1, 2**64 - 1)
DATE = (1980, 1, 1, 0, 0, 0)


class Canary:
    """Unpickling it makes the folder `CANARY`."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (__import__("os").mkdir, (CANARY,))


# -- bytes that mean nothing ----------------------------------------------------------------------------------------


def changed(chance: random.Random, data: bytes) -> bytes:
    """Some bytes flipped, cut off, repeated, zeroed, put in, or a number in them made huge."""
    if not data:
        return bytes(chance.randrange(256) for _ in range(8))
    place, length = chance.randrange(len(data)), chance.choice((1, 4, 16, 64, 512, len(data) // 3 + 1))
    block, kind = data[place:place + length], chance.randrange(7)
    if kind == 0:
        return data[:place]
    if kind == 1:
        return data[:place] + block * chance.choice((2, 3, 50)) + data[place + length:]
    if kind == 2:
        return data[:place] + bytes(len(block)) + data[place + length:]
    if kind == 3:
        size = chance.choice((1, 2, 4, 8))
        word = (chance.choice(WORDS) % 256**size).to_bytes(size, chance.choice(("little", "big")))
        return data[:place] + word + data[place + size:]
    if kind == 4:
        return data[:place] + bytes(chance.randrange(256) for _ in range(length % 64 + 1)) + data[place:]
    if kind == 5:
        return data[:place] + data[place + length:]
    flipped = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8, 40))):
        flipped[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(flipped)


def some_bytes(chance: random.Random, path: Path) -> None:
    """See `changed`; half of the time near the front, where headers are."""
    data, front = path.read_bytes(), chance.random() < 0.5
    path.write_bytes(changed(chance, data[:200]) + data[200:] if front else changed(chance, data))


def nothing_like_it(chance: random.Random, path: Path) -> None:
    """An empty file, a folder, a link that leads in a circle, one byte, zeros, or a text."""
    kind = chance.randrange(6)
    path.unlink()
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        path.symlink_to(path.name)
    else:
        path.write_bytes((b"", b"\0", bytes(4096), b"<html>404 Not Found</html>\n")[kind - 2])


PLAIN: tuple[Form, ...] = (some_bytes, some_bytes, some_bytes, nothing_like_it)


# -- archives -------------------------------------------------------------------------------------------------------


def _members(path: Path) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def _write_members(path: Path, members: list[tuple[str, bytes]], packed: bool = False) -> None:
    method = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    # A name may stand there twice.
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name, DATE)
            info.compress_type = archive.compression
            archive.writestr(info, data)


def members(chance: random.Random, path: Path) -> None:
    """A member is left out, named otherwise, put in twice, moved, or gets another's content."""
    found = _members(path)
    place, kind = chance.randrange(len(found)), chance.randrange(6)
    name, data = found[place]
    other = chance.choice(found)
    names = ("../evil", "/evil", "", name + "/", name.upper(), "a" * 60_000, "\x1b[2J", other[0], name.split("/")[-1])
    if kind == 0:
        del found[place]
    elif kind == 1:
        found[place] = (chance.choice(names), data)
    elif kind == 2:
        found.append((name, changed(chance, data)))
    elif kind == 3:
        chance.shuffle(found)
    elif kind == 4:
        found[place] = (name, other[1])
    else:
        found.append((chance.choice(names), data))
    _write_members(path, found, packed=chance.random() < 0.2)


def inside_a_member(chance: random.Random, path: Path) -> None:
    """Bytes of a member change, and its checksum fits."""
    found = _members(path)
    place = chance.randrange(len(found))
    found[place] = (found[place][0], changed(chance, found[place][1]))
    _write_members(path, found, packed=chance.random() < 0.2)


def sizes_of_members(chance: random.Random, path: Path) -> None:
    """A size, place, method, flag or count in the archive's table lies."""
    data = bytearray(path.read_bytes())
    entries = [place for place in range(len(data) - 4) if data[place:place + 4] == b"PK\x01\x02"]
    if chance.random() < 0.2 or not entries:  # the end of the table
        start, fields = data.rfind(b"PK\x05\x06"), ((8, 2), (10, 2), (12, 4), (16, 4), (20, 2))
    else:
        start, fields = chance.choice(entries), ((8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (42, 4))
    offset, size = chance.choice(fields)
    word = chance.choice((chance.choice(WORDS), chance.randrange(256**size))) % 256**size
    data[start + offset:start + offset + size] = word.to_bytes(size, "little")
    path.write_bytes(bytes(data))


def large_member(chance: random.Random, path: Path) -> None:
    """A member unpacks to a thousand times its size."""
    found = _members(path)
    place = chance.randrange(len(found))
    size = chance.choice((1 << 20, 70 << 20, 300 << 20))
    front = found[place][1] if chance.random() < 0.5 else b""
    found[place] = (found[place][0], front + bytes(size))
    _write_members(path, found, packed=True)


def json_member(chance: random.Random, path: Path) -> None:
    """A value in a JSON member changes."""
    found = _members(path)
    places = [place for place, (name, data) in enumerate(found) if name.endswith(".json") and len(data) > 2]
    place = chance.choice(places)
    content = json.loads(found[place][1])
    found[place] = (found[place][0], dumped(change_tree(chance, content)))
    _write_members(path, found)


# -- pickles and tensors --------------------------------------------------------------------------------------------


def pickle_in_it(chance: random.Random, path: Path) -> None:
    """A pickle that runs code stands for the file, for a member of it, or in what torch writes."""
    evil = pickle.dumps(Canary(), protocol=chance.choice((0, 2, 4)))
    saved = io.BytesIO()
    torch.save(chance.choice((Canary(), {"state_dict": Canary()}, [Canary()])), saved)
    kind = chance.randrange(4)
    if kind == 0:
        path.write_bytes(chance.choice((evil, saved.getvalue())))
        return
    found = _members(path)
    place = chance.randrange(len(found))
    found[place] = (found[place][0], chance.choice((evil, saved.getvalue())) if kind < 3 else evil + found[place][1])
    _write_members(path, found)


def tensors(chance: random.Random, path: Path) -> None:
    """A tensor of a state dict has other numbers, another shape, another type or another name, or is none."""
    state: dict[Any, Any] = dict(torch.load(path, weights_only=True))
    name = chance.choice(list(state))
    value = state[name]
    odd: list[Callable[[], Any]] = [
        lambda: value * float("nan"), lambda: value * 1e38 * 1e3, lambda: value * 1e30, lambda: value * 0,
        lambda: value * 1e-42, lambda: value.double(), lambda: value.half(), lambda: value.to(torch.bfloat16),
        lambda: value.to(torch.complex64), lambda: value.int(), lambda: value.bool(), lambda: value.to_sparse(),
        lambda: value.unsqueeze(0), lambda: value.flatten(), lambda: value[:0], lambda: value[:1].expand(value.shape),
        lambda: torch.zeros(()), lambda: torch.zeros(1).expand(2**40), lambda: value.to("meta"), lambda: None,
        lambda: 3, lambda: "text", lambda: [value], lambda: {"a": value}, lambda: torch.nn.Parameter(value),
        lambda: torch.quantize_per_tensor(value.float(), 0.1, 0, torch.qint8), lambda: value.to(torch.float8_e4m3fn),
    ]
    kind = chance.randrange(10)
    if kind == 0:
        del state[name]
    elif kind == 1:
        state[chance.choice(("", name + ".x", "module." + name, "a" * 10_000, "\x1b[2J", 7, None))] = state.pop(name)
    elif kind == 2:
        torch.save(chance.choice((state[name], [state], {"state_dict": {}}, {"model": state, "ema": state}, 5, None,
                                  {"arch": chance.choice(NUMBERS), "kwargs": chance.choice(NUMBERS),
                                   "state_dict": state})), path)
        return
    else:
        with warnings.catch_warnings(action="ignore"):  # quantized tensors are deprecated, and files hold them
            state[name] = chance.choice(odd)()
    torch.save(state, path)


def header(chance: random.Random, path: Path) -> None:
    """The JSON header of a .safetensors, or the length of it, says something else."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    text = dumped(change_tree(chance, json.loads(data[8:8 + size])))
    said = len(text) if chance.random() < 0.8 else chance.choice(WORDS)
    path.write_bytes(struct.pack("<Q", said) + text + data[8 + size:])


def gzipped(chance: random.Random, path: Path) -> None:
    """What a compressed file unpacks to changes, or is a thousand times its size."""
    data = gzip.decompress(path.read_bytes())
    data += bytes(chance.choice((70 << 20, 300 << 20))) if chance.random() < 0.1 else b""
    path.write_bytes(gzip.compress(changed(chance, data), compresslevel=1, mtime=0) * chance.choice((1, 1, 1, 3)))


# -- arrays ---------------------------------------------------------------------------------------------------------


def arrays(chance: random.Random, path: Path) -> None:
    """An array has other numbers, another type or shape, holds objects, or its header lies."""
    with np.load(path) as file:
        found = {name: file[name] for name in file.files}
    name = chance.choice(list(found))
    value, kind = found[name], chance.randrange(8)
    if kind < 4:
        odd = np.array(value, copy=True)
        if kind == 0 and odd.dtype.kind == "f":
            odd.flat[chance.randrange(odd.size)] = chance.choice((np.nan, np.inf, -np.inf, 3e38, 1e-40))
        elif kind == 1:
            types = ("f2", ">f8", "c8", "U5", "S3", "u8", "i1", "?", "O", "M8[s]", "f4,i4", "V8", "f8")
            odd = np.resize(odd, odd.shape).astype("f8").astype(chance.choice(types[:8] + types[12:])) \
                if chance.random() < 0.5 else np.zeros(odd.shape, chance.choice(types))
        elif kind == 2:
            shapes = ((), (0,), (0, *odd.shape[1:]), (odd.shape[0] + 1, *odd.shape[1:]), (1, odd.size), odd.shape[::-1],
                      (*odd.shape, 1), (1,) * 33)
            odd = np.resize(odd, chance.choice(shapes))
        else:
            with np.errstate(all="ignore"):
                odd = (odd * chance.choice((-1, 1e9, 0, 1e38))).astype(chance.choice((odd.dtype, np.dtype("i8"))))
        found[name] = odd
    elif kind == 4:
        found[name] = np.array([Canary()] * len(value), dtype=object)
    elif kind == 5:
        found[chance.choice(("z", "y", "x", "input", "\x1b[2J", "a" * 300))] = found.pop(name)
    np.savez(path, allow_pickle=True, **found)
    if kind >= 6:  # the header of an array lies
        members = _members(path)
        place = chance.randrange(len(members))
        entry, data = members[place]
        members[place] = (entry, _other_header(chance, data))
        _write_members(path, members)


def _other_header(chance: random.Random, data: bytes) -> bytes:
    shape = chance.choice(("(2**40,)", "(1099511627776,)", "(-1,)", "(6, 3, 8, 9)", "()", "(True,)", "(1.5,)", "None",
                           "(6,)*99", "(4611686018427387904, 4)", "((),)", "(0, 99999999999)"))
    kind = chance.choice(("'<f4'", "'|O'", "'<f999999'", "'<U2000000000'", "[('a', '<f4')]", "None", "'V0'", "'<f8'",
                          "'|S0'", "__import__('os').mkdir('canary')"))
    order = chance.choice(("False", "True", "7"))
    text = f"{{'descr': {kind}, 'fortran_order': {order}, 'shape': {shape}, }}"
    text = chance.choice((text, text, text, "(" * 500, "{" + text, "9" * 6000))
    header = text.encode() + b"\n"
    size = chance.choice((len(header), len(header), len(header), 65535, 0))
    return data[:8] + size.to_bytes(2, "little") + header + data[10 + int.from_bytes(data[8:10], "little"):]


def array(chance: random.Random, path: Path) -> None:
    """The header of a .npy lies."""
    path.write_bytes(_other_header(chance, path.read_bytes()))


# -- pictures -------------------------------------------------------------------------------------------------------


def picture(chance: random.Random, path: Path) -> None:
    """Another mode, format or size under the same name, or a header that speaks of a huge picture."""
    if chance.random() < 0.3 and path.suffix == ".png":
        path.write_bytes(_huge_png(chance, path.read_bytes()))
        return
    with Image.open(path) as file:
        image = file.convert("RGB")
    mode = chance.choice(("1", "L", "P", "RGBA", "CMYK", "I;16", "I", "F", "LA", "YCbCr", "HSV"))
    size = chance.choice(((1, 1), (1, 3000), (3000, 1), (12, 10), (2, 2)))
    kind = chance.choice(("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "ICO", "PPM", "EPS", "JPEG2000"))
    file = io.BytesIO()
    try:
        image.resize(size).convert(mode).save(file, kind)
    except (OSError, ValueError, KeyError):  # this format has no such picture
        file = io.BytesIO()
        image.resize(size).save(file, "BMP")
    data = file.getvalue()
    path.write_bytes(changed(chance, data) if chance.random() < 0.4 else data)


def _huge_png(chance: random.Random, data: bytes) -> bytes:
    """With a right checksum: sizes, depth and kind of colour of the header."""
    sides = [chance.choice((0, 1, 10, 65_535, 30_000, 2**31 - 1, 2**32 - 1)) for _ in range(2)]
    depth, colour, rest = chance.choice((1, 8, 16, 77)), chance.choice((0, 2, 3, 4, 6, 9)), bytes(3)
    head = b"IHDR" + struct.pack(">IIBB", *sides, depth, colour) + rest
    return data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]


# -- any file -------------------------------------------------------------------------------------------------------


def by_suffix(chance: random.Random, path: Path) -> None:
    """The form for what a file's suffix says that it is."""
    forms: dict[str, tuple[Form, ...]] = {
        ".json": (json_tree,), ".npz": (arrays, members, inside_a_member), ".onnx": (protobuf,)}
    chance.choice(forms.get(path.suffix, (some_bytes,)))(chance, path)


def resealed(chance: random.Random, path: Path) -> None:
    """The same, and the artifact's manifest and certificate fit the new file."""
    by_suffix(chance, path)
    reseal(path)


FORMS: dict[str, Form] = {
    "members": members, "inside_a_member": inside_a_member, "sizes_of_members": sizes_of_members,
    "large_member": large_member, "json_member": json_member, "pickle": pickle_in_it, "tensors": tensors,
    "header": header, "arrays": arrays, "array": array, "gzip": gzipped, "picture": picture,
    "json": json_tree, "yaml": yaml_text, "yaml_tree": yaml_tree, "protobuf": protobuf, "external": external,
    "functions": functions, "by_suffix": by_suffix, "resealed": resealed,
}


def damaged(chance: random.Random, path: Path, names: tuple[str, ...]) -> None:
    """A file, or one of a folder, changed by one form: of those named twice as often as of plain bytes."""
    if path.is_dir():
        path = chance.choice(sorted(each for each in path.rglob("*") if each.is_file()))
    forms = tuple(FORMS[name] for name in names)
    form = chance.choice((*PLAIN, *forms, *forms))
    whole = path.read_bytes()
    try:
        form(chance, path)
    except (zipfile.BadZipFile, UnicodeError, RecursionError, OverflowError):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        path.write_bytes(changed(chance, whole))
