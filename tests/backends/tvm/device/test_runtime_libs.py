"""Runtime libraries from the installed wheels and from those of another machine, which are fetched once."""

import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from isobit.backends.device.processor import this_machine
from isobit.backends.tvm.device import runtime_libs
from isobit.backends.tvm.device.runtime_libs import LIBRARIES, TAKEN, check_machine, copy_runtime, runtime_files
from isobit.backends.tvm.profiles import AARCH64, PROFILES, X86_64, Machine
from isobit.pipeline.errors import TargetError

NAMES = ["libtvm_runtime.so", "LICENSE", "NOTICE", "libtvm_ffi.so", "NOTICE.tvm-ffi", "LICENSE.libbacktrace"]


def elf(machine: Machine) -> bytes:
    """The first bytes of a 64-bit library."""
    return b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00" + machine.elf.to_bytes(2, "little") + b"the rest"


@pytest.fixture
def published(monkeypatch, tmp_path):
    """Instead of pip, an index with one wheel for each package; tells which were asked for."""
    asked = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(runtime_libs, "this_machine", lambda: "x86_64")
    monkeypatch.setattr(runtime_libs.metadata, "version", {"apache-tvm": "0.27.0", "apache-tvm-ffi": "0.1.14"}.get)

    def run(command, **_):
        asked.append(command)
        package, version = command[-1].split("==")
        info = f"{package.replace('-', '_')}-{version}.dist-info"
        target = Path(next(word for word in command if word.startswith("--dest=")).removeprefix("--dest="))
        with zipfile.ZipFile(target / "some.whl", "w") as wheel:
            for inside in TAKEN[package].values():
                wheel.writestr(inside.format(info=info), run.content if inside.endswith(".so") else "text")
        return type("Done", (), {"returncode": 0, "stderr": ""})

    run.content = elf(AARCH64)
    monkeypatch.setattr(runtime_libs.subprocess, "run", run)
    run.asked = asked
    return run


def test_another_machines_libraries_are_fetched_once(published, tmp_path):
    files = runtime_files(AARCH64)
    assert list(files) == NAMES and all(path.is_relative_to(tmp_path / "cache" / "isobit") for path in files.values())
    assert files["libtvm_ffi.so"].read_bytes() == elf(AARCH64)
    assert [command[-1] for command in published.asked] == ["apache-tvm==0.27.0", "apache-tvm-ffi==0.1.14"]
    assert {"--no-deps", "--only-binary=:all:", "--platform=manylinux_2_27_aarch64"} <= set(published.asked[0])
    assert runtime_files(AARCH64) == files and len(published.asked) == 2
    assert not list((tmp_path / "cache" / "isobit" / "runtime").glob("tmp*"))


def test_a_half_empty_cache_is_filled_again(published):
    files = runtime_files(AARCH64)
    files["NOTICE"].unlink()
    assert runtime_files(AARCH64)["NOTICE"].is_file()
    assert [command[-1] for command in published.asked[2:]] == ["apache-tvm==0.27.0"]


def test_a_wheel_of_another_machine_never_reaches_the_cache(published, tmp_path):
    published.content = elf(X86_64)
    with pytest.raises(TargetError, match="not a library for aarch64"):
        runtime_files(AARCH64)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_no_network_is_one_error_with_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(runtime_libs.metadata, "version", {"apache-tvm": "0.27.0", "apache-tvm-ffi": "0.1.14"}.get)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    other = AARCH64 if this_machine() == "x86_64" else X86_64
    with pytest.raises(TargetError) as error:
        runtime_files(other)
    assert error.value.what.startswith(f"the runtime of apache-tvm 0.27.0 for {other.name} cannot be fetched: ERROR: ")
    assert "pip download" in error.value.where and "PIP_FIND_LINKS" in error.value.hint


@pytest.mark.parametrize("content", [b"", b"!<arch>", elf(X86_64), elf(AARCH64).replace(b"\x02", b"\x01")])
def test_only_a_64_bit_library_of_the_machine_will_do(tmp_path, content):
    path = tmp_path / "lib.so"
    path.write_bytes(content)
    with pytest.raises(TargetError, match="not a library for aarch64"):
        check_machine(path, AARCH64)


@pytest.mark.tvm
def test_this_machines_libraries_are_the_installed_ones(tmp_path):
    machine = next((p.machine for p in PROFILES.values() if p.machine.name == this_machine()), None)
    try:
        installed = {package: metadata.version(package) for package in TAKEN}
    except metadata.PackageNotFoundError as error:
        pytest.skip(f"{error.name} is not installed")
    if machine is None:
        pytest.skip(f"no device profile is for {this_machine()}")
    copies = copy_runtime(machine, tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in copies] == [f"lib/{name}" for name in NAMES]
    assert all(path.stat().st_size > 0 for path in copies) and all(installed.values())
    assert sum((tmp_path / "lib" / name).stat().st_size for name in LIBRARIES) < 8_000_000
    assert b"Apache License" in (tmp_path / "lib" / "LICENSE").read_bytes()
