"""Artifacts for x86 on processors of another generation than the one at hand, under an emulator of user programs.

A green run on one machine then says something of the others: what saturates without VNNI, what AVX2 cannot do.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
from torch import nn

from isobit.build import Options, compile_model
from isobit.pipeline.errors import TargetError
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.samples.data import array_batches
from tests.examples.sealed import seal

# Processors without VNNI, one of them without AVX2. Older than that ONNX Runtime's own packages do not run.
HASWELL, IVY_BRIDGE = "Haswell", "IvyBridge"
EMULATOR = "qemu-x86_64"

pytestmark = [
    pytest.mark.skipif(sysconfig.get_platform() != "linux-x86_64", reason="emulates x86 programs on Linux on x86"),
    pytest.mark.skipif(shutil.which(EMULATOR) is None, reason=f"needs {EMULATOR} (Debian: apt install qemu-user)"),
]


class Loud(nn.Module):
    """Its first sums are as large as codes allow: two neighbouring products saturate int16 with full 8-bit weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Linear(16, 5)
        with torch.no_grad():
            self.conv.weight.uniform_(0.9, 1.0)
            self.conv.bias.fill_(-0.9 * float(self.conv.weight[0].sum()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv(torch.relu(self.stem(x)).clamp(0.9, 1.1)))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    """A function from target and device profile to the folder of a W8A8 artifact of `Loud`."""
    with torch.random.fork_rng():
        torch.manual_seed(11)
        model, images = Loud().eval(), torch.randn(16, 3, 8, 8)
    batches = array_batches(images, None, 8, "calib", "test images")
    recipe = load_recipe("minmax_w8a8", ["images.batch_size=8", "images.count=16"])

    def build(target: str, profile: str) -> Path:
        folder = tmp_path_factory.mktemp("built") / f"{target}-{profile}"
        try:
            compile_model(model, recipe, target, batches, None, folder, Options(profile=profile))
        except TargetError as error:
            pytest.skip(error.what)
        return folder

    return build


def replayed(folder: Path, processor: str) -> subprocess.CompletedProcess[str]:
    """`run.py` of an artifact on an emulated processor."""
    python = os.path.realpath(sys.executable)
    environment = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib"), "OMP_NUM_THREADS": "1"}
    command = [EMULATOR, "-cpu", processor, python, str(folder / "run.py"), "--seconds", "0"]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


@pytest.mark.onnxruntime
@pytest.mark.parametrize("processor", [HASWELL, IVY_BRIDGE])
@pytest.mark.parametrize("target", ["onnx", "onnx-qoperator"])
def test_the_default_profile_gives_the_same_codes_without_vnni(artifact, target, processor):
    result = replayed(artifact(target, "generic"), processor)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1].startswith("PASS")


@pytest.mark.onnxruntime
def test_codes_of_the_whole_range_saturate_without_vnni_and_that_is_seen(artifact):
    """The case that the default profile is there for; without it the tests above would pass with any weights."""
    folder = artifact("onnx", "vnni")
    result = replayed(folder, HASWELL)
    assert result.returncode == 1 and "needs avx512_vnni or avx_vnni" in result.stdout, result.stdout
    seal(folder, target={"name": "onnx", "profile": "generic"})  # then nobody asks the processor
    result = replayed(folder, HASWELL)
    assert result.returncode == 1 and "codes differ" in result.stdout, result.stdout
    assert result.stdout.splitlines()[-1] == "FAIL"


@pytest.mark.slow
@pytest.mark.tvm
def test_a_module_for_avx2_runs_on_the_oldest_processor_that_it_names(artifact):
    pytest.importorskip("tvm")
    folder = artifact("tvm", "x86-64-v3")
    result = replayed(folder, HASWELL)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "x86-64-v3" in json.loads((folder / "manifest.json").read_text())["target"]["profile"]
