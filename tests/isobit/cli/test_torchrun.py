"""The command under torchrun: two processes calibrate, the first speaks and leaves one proven folder."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.isobit.commands import ARCH, DISTILLED, ENVIRONMENT, LEARN, left_after, setting

pytestmark = pytest.mark.slow  # each start of two processes loads torch three times
FINISH = setting("finish.steps=6")
MADE = ("--recipe", "qdrop_w4a4", *setting(*DISTILLED, "method.steps=10", "weights.bits={average: 3}"))


def together(*arguments, cwd, module="isobit"):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", module]
    return subprocess.run(
        [*command, *map(str, arguments)], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=600,
        check=False,
    )


@pytest.mark.slow
def test_two_processes_leave_one_proven_folder(files, tmp_path):
    data = "--calib-data", files / "calib.npz", "--eval-data", files / "val.npz"
    found = together(
        "build", files / "model.pth", "--arch", ARCH, *LEARN, *FINISH, *data, "--device", "cpu", "--out", "out",
        cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert left_after(tmp_path) == ["out"]
    assert found.stdout.count("PARITY PASSED") == 1 and found.stderr.count("  1/4  ") == 1
    assert "calibrated by 2 processes together" in found.stdout
    assert found.stderr.count("  6/6  ") == 1 and "finish: loss of the whole network on" in found.stdout
    parity = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert parity["codes"]["differing"] == 0 and parity["gate"]["passed"]
    again = together(
        "build", files / "model.pth", "--arch", ARCH, *LEARN, *FINISH, *data, "--device", "cpu", "--out", "again",
        cwd=tmp_path)
    assert again.returncode == 0 and \
        (tmp_path / "out" / "model.onnx").read_bytes() == (tmp_path / "again" / "model.onnx").read_bytes()


@pytest.mark.slow
def test_the_first_makes_images_and_allocates_bits_for_both(files, tmp_path):
    found = together(
        "build", files / "model.pth", "--arch", ARCH, *MADE, "--eval-data", files / "val.npz", "--target", "reference",
        "--device", "cpu", "--out", "out", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert left_after(tmp_path) == ["out"] and found.stderr.count("make images") == 1
