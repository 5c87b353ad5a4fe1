"""Artifacts of the toy module, made once for all tests of the device side; copied before a test changes one."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from isobit.backends.tvm.device.device_files import write_device_files
from isobit.backends.tvm.device.toolchain import check, compiler
from isobit.backends.tvm.profiles import NATIVE, PROFILES, resolve
from isobit.pipeline.errors import TargetError
from tests.backends.tvm import toy
from tests.examples.sealed import seal


def needs(name: str) -> None:
    """Skip where this machine lacks something for the device profile."""
    try:
        check(resolve(name))
    except TargetError as error:
        pytest.skip(f"{error.what} ({error.hint})")


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory):
    """A function from the name of a device profile to the folder of its artifact, not to be changed."""
    made: dict[str, Path] = {}

    def artifact(name: str) -> Path:
        needs(name)
        if name not in made:
            made[name] = folder = tmp_path_factory.mktemp(name)
            profile = resolve(name)
            toy.build(folder / "model.so", profile.llvm_target(), compiler(profile))
            write_device_files(folder, profile, toy.PROGRAM, (0, 1), {"toy": 1})
            x = toy.images(8)
            expected = toy.expected(x)
            codes = {f"code:{key}": value for key, value in expected.items() if key != "logits"}
            np.savez_compressed(folder / "golden.npz", input=x, logits=expected["logits"], **codes)
            seal(folder)
        return made[name]

    return artifact


@pytest.fixture
def native(artifacts, tmp_path):
    """An artifact for this machine that a test may change."""
    return shutil.copytree(artifacts(NATIVE), tmp_path / "artifact")


@pytest.fixture(params=[name for name in PROFILES if name.startswith("aarch64")])
def arm(artifacts, request):
    """An artifact for each Arm profile."""
    return artifacts(request.param)
