"""The reader of modules, against TVM's own reading of them, and on damaged ones."""

import numpy as np
import pytest

from isobit.backends.tvm.profiles import NATIVE
from isobit.backends.tvm.readback.executable import NoModule, Register, read_executable, read_file
from tests.backends.tvm import toy
from tests.backends.tvm.conftest import artifacts as artifacts

MAGIC = bytes.fromhex("1e1514422fde25d2")


@pytest.fixture(scope="module")
def path(artifacts):
    return artifacts(NATIVE) / "model.so"


def said(executable) -> str:
    """All that was read, arrays by their bytes."""
    def shown(value):
        return (value.dtype.str, value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value

    functions = [
        (name, function.parameters, function.registers,
         [(each.callee, [shown(value) for value in each.arguments], each.result) for each in function.instructions])
        for name, function in executable.functions.items()
    ]
    return repr((functions, [shown(value) for value in executable.constants]))


def test_constants_are_those_that_the_module_was_made_with(path):
    arrays = [value for value in read_file(path).constants if isinstance(value, np.ndarray)]
    assert sorted((array.dtype.name, array.shape) for array in arrays) == [("int8", (16, 3)), ("uint8", (4, 1024))]
    for wanted in (toy.WEIGHT, toy.HEAD):
        assert any(array.dtype == wanted.dtype and np.array_equal(array, wanted) for array in arrays)


def test_instructions_are_those_that_tvm_reads(path):
    import tvm

    lines = tvm.runtime.load_module(str(path))["as_text"]().splitlines()
    functions = read_file(path).functions
    assert set(functions) == {"main", "codes", "trace"}
    starts = {name: lines.index(f"@{name}:") for name in functions}
    for name, function in functions.items():
        for line, each in zip(lines[starts[name] + 1:], function.instructions, strict=False):
            if not each.callee:
                assert line.split() == ["ret", f"%{each.arguments[0].number}"]
                continue
            call, callee, *_ = line.split()
            given = line.split(" in:")[1].split("dst:")[0].strip()
            assert (call, callee) == ("call", each.callee)
            texts = given.split(", ") if given else []
            assert len(texts) == len(each.arguments)
            for text, value in zip(texts, each.arguments, strict=True):
                if text[:1] == "%" and text[1:].isdigit():
                    assert value == Register(int(text[1:]))
                elif text.startswith("i"):
                    assert value == int(text[1:])
        assert function.instructions[-1].callee == ""


def test_places_are_those_of_values_and_arguments(path):
    content, executable = path.read_bytes(), read_file(path)
    for value, place in zip(executable.constants, executable.places, strict=True):
        assert (place is None) == (not isinstance(value, np.ndarray))
        assert place is None or content[place:place + value.nbytes] == value.tobytes()
    for function in executable.functions.values():
        for each in function.instructions:
            assert len(each.places) == (len(each.arguments) if each.callee else 0)
            for value, place in zip(each.arguments, each.places, strict=False):
                word = int.from_bytes(content[place:place + 8], "little")
                if isinstance(value, Register):
                    assert word == value.number
                elif isinstance(value, int):
                    assert word == 1 << 56 | value & (1 << 56) - 1
                else:
                    assert word >> 56 in (2, 3)
    start, end = executable.span
    assert content[start:start + len(MAGIC)] == MAGIC and content.index(MAGIC) == start
    assert int.from_bytes(content[start - 8:start], "little") == end - start


def test_every_byte_is_read(path):
    """A byte that is changed is an error or changes what was read: none is passed over."""
    content = path.read_bytes()
    whole, first = said(read_executable(content)), content.index(MAGIC)
    size = int.from_bytes(content[first - 8:first], "little")
    read, refused = 0, 0
    for place in range(first - 8, first + size, 3):
        damaged = bytearray(content)
        damaged[place] ^= 1
        try:
            assert said(read_executable(bytes(damaged))) != whole, f"byte {place - first} of the executable"
            read += 1
        except NoModule:
            refused += 1
    assert read > 500 and refused > 50


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: b"no library", "no ELF library"),
        (lambda content: content.replace(b"__tvm_ffi__library_bin", b"__tvm_ffi__library_bim"), "no symbol"),
        (lambda content: content.replace(MAGIC, MAGIC[::-1]), "of version 0.14; 0xd225de2f4214151e of version"),
        (lambda content: content.replace(b"relax.VMExecutable", b"relax.VMExecutabl_"), "other modules"),
        (lambda content: content[:content.index(MAGIC) + 100], "breaks off|no symbol|longer or shorter"),
    ],
    ids=["text", "symbol", "magic", "kind", "cut"],
)
def test_what_is_no_module_is_said(path, damage, message):
    with pytest.raises(NoModule, match=message):
        read_executable(damage(path.read_bytes()))
