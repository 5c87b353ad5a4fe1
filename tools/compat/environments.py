"""Environments that hold one version of a runtime and numpy, nothing else; made once and reused."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import venv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from isobit.pipeline.errors import InputError

NEWEST = "newest"
ONNX_RUNTIME, TVM = "onnxruntime", "apache-tvm"
OF_TARGET: Mapping[str, str] = {"onnx": ONNX_RUNTIME, "onnx-qoperator": ONNX_RUNTIME, "tvm": TVM}
TITLES: Mapping[str, str] = {ONNX_RUNTIME: "ONNX Runtime", TVM: "TVM"}
MODULES: Mapping[str, str] = {ONNX_RUNTIME: "onnxruntime", TVM: "tvm"}
# A module says which interface package it needs, whatever its compiler.
BESIDE: Mapping[str, tuple[str, ...]] = {ONNX_RUNTIME: (), TVM: ("apache-tvm-ffi==0.1.14.post0",)}
# Below 1.19 the wheels were built against numpy 1 and fail to import under numpy 2.
NUMPY_1_BELOW: Mapping[str, tuple[int, int]] = {ONNX_RUNTIME: (1, 19), TVM: (0, 0)}


@dataclass(frozen=True)
class Runtime:
    """One version of a runtime.

    Args:
        package: by which it is installed.
        version: `NEWEST` for what pip gives without one.
    """

    package: str
    version: str

    @property
    def title(self) -> str:
        """Its name for people."""
        return TITLES[self.package]

    @property
    def module(self) -> str:
        """What Python imports."""
        return MODULES[self.package]

    @property
    def requirements(self) -> list[str]:
        """What pip is asked for."""
        if self.version == NEWEST:
            return [self.package, *BESIDE[self.package], "numpy"]
        old = tuple(map(int, re.findall(r"\d+", self.version)[:2])) < NUMPY_1_BELOW[self.package]
        return [f"{self.package}=={self.version}", *BESIDE[self.package], "numpy<2" if old else "numpy"]


def environment(runtime: Runtime, folder: Path) -> Path:
    """The Python of an environment with that runtime; made where it is missing or was interrupted."""
    place = folder / f"{runtime.package}-{runtime.version}"
    stamp, python = place / "ready", place / "bin" / "python"
    if stamp.is_file():
        return python
    shutil.rmtree(place, ignore_errors=True)
    venv.create(place, with_pip=True)
    command = [str(python), "-m", "pip", "install", "--quiet", *runtime.requirements]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(
            f"{runtime.package} {runtime.version} cannot be installed: {reason}", where=shlex.join(command),
            hint="an old version may need an older Python; give other versions",
        )
    stamp.touch()
    return python
