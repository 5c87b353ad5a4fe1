"""What is missing is named with its Debian package; what is there is measured."""

import re
import sys

import pytest

from isobit.backends.c import toolchain
from isobit.backends.c.toolchain import arm_footprint, check_machine, compile_c, compiler_of, compiler_version
from isobit.pipeline.errors import TargetError
from tests.backends.c.compiled import needs_arm, needs_gcc, write
from tests.examples import programs


@pytest.fixture
def bare_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)


def test_no_compiler_is_an_error_that_names_the_package(bare_machine):
    with pytest.raises(TargetError, match=r"no C compiler(.|\n)*apt install gcc libc6-dev"):
        check_machine("generic")


def test_no_emulator_is_an_error_that_names_the_packages(bare_machine):
    with pytest.raises(TargetError, match=r"arm-none-eabi-gcc and qemu-system-arm not found(.|\n)*apt install gcc-arm"):
        check_machine("cortex-m4")
    assert not toolchain.has_arm_compiler()


def test_cc_is_used_and_its_absence_told(monkeypatch):
    monkeypatch.setenv("CC", f"{sys.executable} -E")
    assert compiler_of("generic") == [sys.executable, "-E"]
    assert compiler_version(compiler_of("generic")).startswith("Python 3")
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(TargetError, match="CC=no-such-compiler"):
        compiler_of("generic")


@needs_gcc
def test_complaints_of_the_compiler_are_told(tmp_path):
    (tmp_path / "x.c").write_text("int x = y;\n")
    with pytest.raises(TargetError, match="y.? undeclared"):
        compile_c(["gcc", "-c", "x.c"], tmp_path)


@needs_arm
def test_the_footprint_is_the_constants_the_code_and_the_arena(tmp_path):
    write(programs.ds_cnn(8), tmp_path)
    found = arm_footprint(tmp_path / "model.c", "cortex-m4")
    header = (tmp_path / "model.h").read_text()
    arena, constants = (int(re.search(rf"NET_{name}_BYTES (\d+)", header)[1]) for name in ("ARENA", "CONSTANT"))
    assert found.data == arena == 16_000 + 9 * 64
    assert constants < found.flash < constants + 9216
    assert 100 < found.stack < 1600
    assert arm_footprint(tmp_path / "model.c", "generic") == found
    helium = arm_footprint(tmp_path / "model.c", "cortex-m55")
    assert helium.data == arena and helium.flash > found.flash and helium.stack > found.stack
