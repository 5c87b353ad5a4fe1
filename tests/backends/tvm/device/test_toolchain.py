"""What is missing on this machine is named with its package; versions are judged without importing anything."""

import dataclasses
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from isobit.backends.tvm.device import toolchain
from isobit.backends.tvm.device.toolchain import REQUIREMENTS, check_packages, compiler, emulation
from isobit.backends.tvm.profiles import PROFILES
from isobit.pipeline.errors import TargetError

ROOT = Path(__file__).parents[4]
V3 = "model name : Some PC\nflags : avx2 bmi1 bmi2 f16c fma abm movbe\n"
A76 = "Features : fp asimd asimddp\n"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A function that makes this a machine with nothing but the named tools on its path."""

    def make(name, cpuinfo, *tools):
        for tool in tools:
            (tmp_path / tool).write_text("#!/bin/sh\n")
            (tmp_path / tool).chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(toolchain, "this_machine", lambda: name)
        monkeypatch.setattr(toolchain, "read_cpuinfo", lambda: cpuinfo)
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("profile", "command", "package"),
    [("x86-64-v3", "g++", "g++"), ("aarch64-dotprod", "aarch64-linux-gnu-g++", "g++-aarch64-linux-gnu")],
)
def test_missing_compiler_names_its_package(machine, profile, command, package):
    machine("x86_64", V3)
    with pytest.raises(TargetError) as error:
        compiler(PROFILES[profile])
    assert f"'{profile}' needs {command}, which links" in error.value.what
    assert error.value.hint == f"On Debian and Ubuntu: apt install {package}"


def test_compiler_of_the_own_machine_is_the_plain_one(machine):
    folder = machine("aarch64", A76, "g++", "x86_64-linux-gnu-g++")
    assert compiler(PROFILES["aarch64"]) == str(folder / "g++")
    assert compiler(PROFILES["x86-64-v3"]) == str(folder / "x86_64-linux-gnu-g++")


def test_missing_emulator_names_its_package(machine):
    machine("x86_64", V3)
    with pytest.raises(TargetError, match=r"needs qemu-aarch64, which runs(.|\n)*apt install qemu-user"):
        emulation(PROFILES["aarch64"])


def test_missing_libraries_for_the_emulator_name_their_package(machine):
    machine("x86_64", V3, "qemu-aarch64")
    absent = PROFILES["aarch64"].machine.__class__("aarch64", "no-such-triple", 183, "the-package")
    profile = PROFILES["aarch64"].__class__("aarch64", absent, "lanes", ("asimd",), "generic", (), "cortex-a53")
    with pytest.raises(TargetError, match=r"needs /usr/no-such-triple(.|\n)*apt install the-package"):
        emulation(profile)


def test_a_processor_with_the_features_runs_its_modules_itself(machine):
    machine("x86_64", V3)
    assert emulation(PROFILES["x86-64-v3"]) == ()


def test_better_profiles_of_the_own_machine_are_emulated_with_its_own_libraries(machine):
    folder = machine("aarch64", A76, "qemu-aarch64")
    assert emulation(PROFILES["aarch64-dotprod"]) == ()
    assert emulation(PROFILES["aarch64-i8mm"]) == (str(folder / "qemu-aarch64"), "-cpu", "max")


def test_what_no_emulator_can_run_is_refused(machine):
    machine("x86_64", V3, "g++", "qemu-x86_64")
    with pytest.raises(TargetError, match=r"proven here: this processor \(Some PC\) lacks avx512_vnni") as told:
        emulation(PROFILES["x86-64-vnni"])
    assert "Build on a machine whose processor has them, or take `options.profile=x86-64-v3`" in told.value.hint
    alone = dataclasses.replace(PROFILES["x86-64-vnni"], features=("avx512_vnni",))
    with pytest.raises(TargetError) as told:
        emulation(alone)
    assert told.value.hint == "Build on a machine whose processor has them."


def test_avx_vnni_needs_no_avx512(machine):
    machine("x86_64", V3.replace("avx2", "avx2 avx_vnni"), "g++")
    assert emulation(PROFILES["x86-64-avxvnni"]) == ()


@pytest.mark.parametrize(
    ("versions", "says"),
    [
        ({}, "apache-tvm is not installed, apache-tvm-ffi is not installed"),
        ({"apache-tvm": "0.25.0.post1", "apache-tvm-ffi": "0.1.14.post1"}, "apache-tvm 0.25.0.post1 is installed"),
        ({"apache-tvm": "0.27.0", "apache-tvm-ffi": "0.1.15.post2"}, "apache-tvm-ffi 0.1.15.post2 is installed"),
        ({"apache-tvm": "0.27.0", "apache-tvm-ffi": "0.1.14"}, "apache-tvm-ffi 0.1.14 is installed"),
        ({"apache-tvm": "0.28.0", "apache-tvm-ffi": "0.1.14.post0"}, "apache-tvm 0.28.0 is installed"),
    ],
)
def test_missing_and_wrong_versions_say_which_work(monkeypatch, versions, says):
    def version(name):
        if name not in versions:
            raise toolchain.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(toolchain.metadata, "version", version)
    with pytest.raises(TargetError) as error:
        check_packages()
    assert error.value.what.endswith(says)
    assert "apache-tvm>=0.26,<0.28" in error.value.allowed
    assert error.value.hint == "pip install 'apache-tvm>=0.26,<0.28' 'apache-tvm-ffi>=0.1.14.post0,<0.1.15'"


@pytest.mark.parametrize("tvm", ["0.26.0", "0.27.0", "0.27.0.post1"])
@pytest.mark.parametrize("ffi", ["0.1.14.post0", "0.1.14.post1"])
def test_versions_that_work_are_let_through(monkeypatch, tvm, ffi):
    monkeypatch.setattr(toolchain.metadata, "version", {"apache-tvm": tvm, "apache-tvm-ffi": ffi}.__getitem__)
    check_packages()


def test_the_requirements_are_those_of_the_project_file():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["tvm"] == [
        *(name + pin for name, pin in REQUIREMENTS.items()), "packaging>=23",
    ]


def test_without_packaging_the_target_is_refused_and_nothing_else(monkeypatch):
    monkeypatch.setattr(toolchain.metadata, "version", lambda name: "0.27.0")
    monkeypatch.setitem(sys.modules, "packaging.specifiers", None)
    with pytest.raises(TargetError, match=r"'packaging', which is not installed(.|\n)*isobit\[tvm\]"):
        check_packages()


def test_nothing_is_imported_to_judge_the_versions():
    program = (
        "import sys; from isobit.backends.tvm.device import toolchain\n"
        "try: toolchain.check_packages()\n"
        "except Exception: pass\n"
        "sys.exit(bool({'tvm', 'tvm_ffi'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0
