"""Runs a tool so that ONNX Runtime, OpenVINO and LiteRT take the processor for one of AVX2 alone.

    python tools/bench/peers/without_avx512.py tools/bench/modules.py [ARGUMENTS]

A module of `x86-64-v3` is compiled for AVX2 and runs on any later processor. What other tools run they choose by the
instruction cpuid, which no setting of theirs hides. So copies of their packages are measured in which each cpuid is
replaced by a trap that cpuid.c answers without AVX-512, AVX-VNNI and AMX. Nothing else is changed. Linux on x86-64,
with gcc and objdump.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib import util
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
FOLDER = ROOT / "build" / "without-avx512"
PLACE, LIBRARY, PRELOAD = "packages", "cpuid.so", "LD_PRELOAD"
PACKAGES = ("onnxruntime", "openvino", "ai_edge_litert")
CPUID, TRAP = b"\x0f\xa2", b"\x0f\x0a"
# A line of `readelf --section-headers --wide`: name, address, offset and size of a section that holds code.
SECTION = re.compile(r"\]\s+\.\S+\s+PROGBITS\s+([0-9a-f]+)\s+([0-9a-f]+)\s+([0-9a-f]+)\s.*AX")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code of the tool."""
    command = list(sys.argv[1:] if arguments is None else arguments)
    if not command:
        print("usage: python tools/bench/peers/without_avx512.py TOOL [ARGUMENTS]", file=sys.stderr)
        return 2
    library = compile_answers(FOLDER)
    for name in PACKAGES:
        spec = util.find_spec(name)
        if spec is None or spec.origin is None:
            print(f"{name}: not installed")
            continue
        changed = copy_without_cpuid(Path(spec.origin).parent, FOLDER / PLACE / name)
        print(f"{name}: {changed} instructions replaced")
    path = os.pathsep.join(filter(None, (str(FOLDER / PLACE), str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {PRELOAD: str(library), "PYTHONPATH": path}
    return subprocess.run([sys.executable, *command], env=environment, check=False).returncode


def is_hidden() -> bool:
    """Whether the packages that this process imports ask cpuid.c of the processor.

    Raises:
        RuntimeError: some do and some do not; nothing that was measured so could be told.
    """
    specs = [spec for name in PACKAGES if (spec := util.find_spec(name)) is not None and spec.origin is not None]
    copies = {FOLDER / PLACE in Path(spec.origin or "").parents for spec in specs}
    copies.add(str(FOLDER / LIBRARY) in os.environ.get(PRELOAD, "").split(os.pathsep))
    if len(copies) > 1:
        raise RuntimeError(f"some packages are copies in {FOLDER}, others are not: run {Path(__file__).name}")
    return copies == {True}


def compile_answers(folder: Path) -> Path:
    """cpuid.c as a library to preload."""
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / LIBRARY
    subprocess.run(["gcc", "-O1", "-Wall", "-shared", "-fPIC", "-o", library, HERE / "cpuid.c"], check=True)
    return library


def copy_without_cpuid(package: Path, copy: Path) -> int:
    """A package's files, cpuid replaced in each library; returns how many instructions that were.

    Raises:
        ValueError: a package without any: it finds out in another way, and the copy would hide nothing.
    """
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(package, copy)
    changed = sum(replace(path) for path in copy.rglob("*.so*") if path.is_file())
    if not changed:
        raise ValueError(f"{package} holds no cpuid: its libraries learn of the processor in another way")
    return changed


def replace(library: Path) -> int:
    """Replace each cpuid of an ELF file in place; returns their number."""
    sections = list(code_sections(library))
    data = bytearray(library.read_bytes())
    places = list(cpuid_addresses(library))
    for address in places:
        (offset,) = (address - first + start for first, start, size in sections if first <= address < first + size)
        if data[offset:offset + len(CPUID)] != CPUID:
            raise ValueError(f"{library}: no cpuid at {address:#x}")
        data[offset:offset + len(CPUID)] = TRAP
    if places:
        library.write_bytes(data)
    return len(places)


def code_sections(library: Path) -> Iterator[tuple[int, int, int]]:
    """(address, offset in the file, size) of each section that holds code."""
    for line in _lines("readelf", "--section-headers", "--wide", str(library)):
        if found := SECTION.search(line):
            address, offset, size = (int(text, 16) for text in found.groups())
            yield address, offset, size


def cpuid_addresses(library: Path) -> Iterator[int]:
    """Where the disassembler finds the instruction: the bytes alone also stand inside others."""
    for line in _lines("objdump", "--disassemble", "--no-show-raw-insn", str(library)):
        address, _, instruction = line.partition(":")
        if instruction.strip() == "cpuid":
            yield int(address, 16)


def _lines(*command: str) -> Iterable[str]:
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        yield from process.stdout or ()


if __name__ == "__main__":
    sys.exit(main())
