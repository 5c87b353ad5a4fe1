"""The two libraries that run a module on a device, taken from the published wheels of its machine.

Of this machine they are the installed packages' own. Of another machine the wheels of the same versions are fetched
once with pip and the libraries are kept in the user's cache folder. Both are Apache-2.0, so its text and the notice go
along. An artifact holds them in `lib/`: 5 MB, and nothing has to be downloaded on the device.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path

from isobit.backends.device.processor import this_machine
from isobit.backends.tvm.device.device_runner import FOLDER, LIBRARIES
from isobit.backends.tvm.profiles import Machine
from isobit.pipeline.errors import TargetError

# Package -> what is taken from its wheel, by the name in `lib/`; `{info}` is the package's own metadata folder.
TAKEN: dict[str, dict[str, str]] = {
    "apache-tvm": {
        "libtvm_runtime.so": "tvm/lib/libtvm_runtime.so", "LICENSE": "tvm/LICENSE", "NOTICE": "tvm/NOTICE",
    },
    "apache-tvm-ffi": {
        "libtvm_ffi.so": "tvm_ffi/lib/libtvm_ffi.so",
        "NOTICE.tvm-ffi": "{info}/licenses/NOTICE",
        "LICENSE.libbacktrace": "tvm_ffi/3rdparty/libbacktrace/LICENSE",
    },
}
DOWNLOAD_SECONDS = 900


def runtime_files(machine: Machine) -> dict[str, Path]:
    """Where the files lie that go into an artifact's `lib/`, by name; fetches those of another machine once.

    Raises:
        TargetError: they cannot be fetched, or are not for `machine`.
    """
    files = _installed() if machine.name == this_machine() else _cached(machine)
    for name in LIBRARIES:
        check_machine(files[name], machine)
    return files


def copy_runtime(machine: Machine, folder: Path) -> list[Path]:
    """Copy `runtime_files` into `folder`/lib; returns the copies."""
    (folder / FOLDER).mkdir()
    return [Path(shutil.copyfile(path, folder / FOLDER / name)) for name, path in runtime_files(machine).items()]


def check_machine(library: Path, machine: Machine) -> None:
    """Raises TargetError where the file is not a 64-bit ELF library of the machine."""
    with library.open("rb") as file:
        header = file.read(20)
    if header[:5] != b"\x7fELF\x02" or int.from_bytes(header[18:20], "little") != machine.elf:
        raise TargetError(
            f"the file is not a library for {machine.name}", where=str(library),
            hint="Delete it, so that it is fetched again." if cache_folder() in library.parents else
            "Install apache-tvm and apache-tvm-ffi again.",
        )


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/isobit`, where what was fetched once is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "isobit"


def _installed() -> dict[str, Path]:
    return {
        name: Path(str(metadata.distribution(package).locate_file(inside)))
        for package in TAKEN for name, inside in _taken(package, metadata.version(package)).items()
    }


def _taken(package: str, version: str) -> dict[str, str]:
    """The files of one package, by their names in `lib/`."""
    info = f"{package.replace('-', '_')}-{version}.dist-info"
    return {name: inside.format(info=info) for name, inside in TAKEN[package].items()}


def _cached(machine: Machine) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for package, taken in TAKEN.items():
        version = metadata.version(package)
        folder = cache_folder() / "runtime" / f"{package}-{version}-{machine.name}"
        if not all((folder / name).is_file() for name in taken):
            _fetch(package, version, machine, folder)
        files.update({name: folder / name for name in taken})
    return files


def _fetch(package: str, version: str, machine: Machine, folder: Path) -> None:
    """Download the wheel, take the files out, and put them in place as the last act."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        wheel = _download(package, version, machine, Path(temporary))
        made = Path(temporary) / "files"
        made.mkdir()
        with zipfile.ZipFile(wheel) as archive:
            for name, inside in _taken(package, version).items():
                (made / name).write_bytes(archive.read(inside))
        for name in TAKEN[package]:
            if name in LIBRARIES:
                check_machine(made / name, machine)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)


def _download(package: str, version: str, machine: Machine, folder: Path) -> Path:
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
        "--only-binary=:all:", "--retries=1", f"--dest={folder}",
        *(f"--platform={tag}" for tag in machine.wheels), f"{package}=={version}",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS)
        reason = done.stderr.strip()
    except subprocess.TimeoutExpired:
        reason = f"no answer in {DOWNLOAD_SECONDS} s"
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        last = reason.splitlines()[-1] if reason else "pip wrote nothing"
        raise TargetError(
            f"the runtime of {package} {version} for {machine.name} cannot be fetched: {last}",
            where=" ".join(["pip", *command[3:]]),
            hint="Connect once: it is kept in the cache. Without a network, run this command elsewhere and name the "
            "wheel's folder in PIP_FIND_LINKS.",
        )
    return wheels[0]
