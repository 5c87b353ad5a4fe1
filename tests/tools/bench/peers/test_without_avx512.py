"""A library that asks for AVX-512 is told that there is none, and all else as it is."""

import platform
import shutil
import signal
import subprocess
import sys

import pytest

from tools.bench.peers import without_avx512
from tools.bench.peers.without_avx512 import copy_without_cpuid, cpuid_addresses, is_hidden

needs_tools = pytest.mark.skipif(
    not sys.platform.startswith("linux") or platform.machine() != "x86_64"
    or not all(map(shutil.which, ("gcc", "objdump", "readelf"))),
    reason="needs Linux on x86-64 with gcc, objdump and readelf",
)
ASKING = """
#include <cpuid.h>
unsigned constant(void) { return 0x0000a20f; }  /* the bytes of cpuid, which are none here */
int asked(int leaf, int part, int which)
{
    unsigned r[4];
    __cpuid_count(leaf, part, r[0], r[1], r[2], r[3]);
    return (int)r[which];
}
void trap(void) { __builtin_trap(); }
"""
# Prints the registers of leaf 7, then of leaf 1, of the library that is given.
READING = ("import ctypes, sys; f = ctypes.CDLL(sys.argv[1]).asked; "
           "print(*(f(leaf, 0, which) & 0xffffffff for leaf in (7, 1) for which in range(4)))")
HIDDEN = (0, 1 << 16 | 1 << 17 | 1 << 21 | 1 << 28 | 1 << 30 | 1 << 31, 1 << 1 | 1 << 6 | 1 << 11 | 1 << 12 | 1 << 14)


@pytest.fixture
def package(tmp_path):
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "asking.c").write_text(ASKING)
    (folder / "module.py").write_text("")
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", folder / "asking.so", folder / "asking.c"], check=True)
    return folder


def answers(library, preloaded=None):
    environment = {"LD_PRELOAD": str(preloaded)} if preloaded else {}
    done = subprocess.run([sys.executable, "-c", READING, library], env=environment, check=True, capture_output=True)
    return [int(word) for word in done.stdout.split()]


@needs_tools
def test_avx512_is_hidden_and_nothing_else(package, tmp_path):
    copy = tmp_path / "copy"
    assert copy_without_cpuid(package, copy) == 1 and (copy / "module.py").is_file()
    assert len(list(cpuid_addresses(package / "asking.so"))) == 1 and not list(cpuid_addresses(copy / "asking.so"))
    told, hidden = answers(package / "asking.so"), answers(
        copy / "asking.so", without_avx512.compile_answers(tmp_path / "built"))
    for register, bits in enumerate(HIDDEN):
        assert hidden[register] == told[register] & ~bits
    # Of leaf 1 the number of the core that answers is a part.
    assert hidden[6:] == told[6:]


@needs_tools
def test_a_trap_of_a_library_ends_the_process(package, tmp_path):
    command = [sys.executable, "-c", "import ctypes, sys; ctypes.CDLL(sys.argv[1]).trap()", package / "asking.so"]
    environment = {"LD_PRELOAD": str(without_avx512.compile_answers(tmp_path / "built"))}
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGILL


@needs_tools
def test_a_package_that_asks_nothing_is_refused(tmp_path):
    (tmp_path / "package").mkdir()
    with pytest.raises(ValueError, match="holds no cpuid"):
        copy_without_cpuid(tmp_path / "package", tmp_path / "copy")


@needs_tools
def test_a_tool_imports_the_copies(package, tmp_path, monkeypatch, capfd):
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(without_avx512, "FOLDER", tmp_path / "built")
    monkeypatch.setattr(without_avx512, "PACKAGES", ("package", "no_such_package"))
    (tmp_path / "tools").mkdir()
    tool = tmp_path / "tools" / "tool.py"
    tool.write_text("import os, sys\nfrom pathlib import Path\nimport package\n"
                    "from tools.bench.peers import without_avx512\n"
                    f"without_avx512.FOLDER = Path({str(tmp_path / 'built')!r})\n"
                    "without_avx512.PACKAGES = ('package',)\n"
                    "print(without_avx512.is_hidden(), *sys.argv[1:])\n"
                    "del os.environ['LD_PRELOAD']\n"
                    "without_avx512.is_hidden()\n")
    assert without_avx512.main([str(tool), "--rounds", "2"]) == 1
    printed = capfd.readouterr()
    assert printed.out.splitlines() == [
        "package: 1 instructions replaced", "no_such_package: not installed", "True --rounds 2"]
    assert "RuntimeError: some packages are copies" in printed.err


def test_nothing_is_hidden_elsewhere(capsys):
    assert not is_hidden()
    assert without_avx512.main([]) == 2 and "usage: " in capsys.readouterr().err
