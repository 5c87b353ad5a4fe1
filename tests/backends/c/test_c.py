"""`--target c` from a model to an artifact: what it refuses, what it ships, what it proves and what it says."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from isobit import build as driver
from isobit.backends.base import BACKENDS
from isobit.backends.c.target import TARGETS
from isobit.backends.c.toolchain import has_arm_compiler
from isobit.pipeline.errors import TargetError
from isobit.pipeline.model.modelfile import LoadedModel
from isobit.pipeline.samples.data import array_batches
from tests.backends.c.compiled import needs_arm, needs_emulator, needs_gcc
from tests.examples.onnx_cases import FLOAT_MIDDLES, MIDDLES, TABLE_MIDDLES, Net, frozen, recipe_of

BACKEND = BACKENDS.get("c")
BITS = {
    "relu": (8, 8), "add": (4, 4), "squeeze_excite": (3, 3), "shuffle": (2, 2), "cat_signed": (4, 8),
    "depthwise": (4, 4), "avg_pool_inside": (8, 8), "pad_slice": (8, 4),
}


def little_net():
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return Net(*MIDDLES["add"]).eval()


def build(out, profile="generic"):
    images = torch.randn(24, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    batches = array_batches(images, torch.arange(24) % 5, 8, "calib", "random images")
    loaded = LoadedModel(little_net(), None, "little net", "", None)
    return driver.compile_model(loaded, recipe_of(4, 8), "c", batches, batches, out, driver.Options(profile))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(tmp_path_factory.mktemp("c") / "artifact")


@needs_gcc
@pytest.mark.parametrize("name", BITS)
def test_the_shipped_c_gives_every_code_of_the_arithmetic(name, tmp_path):
    reference, images = frozen(name, *BITS[name], target=TARGETS["generic"])
    paths = BACKEND.emit(reference, tmp_path)
    assert all(path.is_file() for path in paths) and paths[0].name == BACKEND.model_file
    expected = BACKEND.arithmetic(reference).run(images)
    got = BACKEND.open(tmp_path, "O2").run(images)
    assert list(got) == list(expected)
    for tensor, codes in expected.items():
        assert got[tensor].tobytes() == np.ascontiguousarray(codes).tobytes(), tensor


@needs_gcc
@pytest.mark.parametrize("name", sorted({*FLOAT_MIDDLES} - TABLE_MIDDLES))
def test_what_runs_in_float_elsewhere_stops_before_calibration(name):
    loaded = LoadedModel(Net(*FLOAT_MIDDLES[name]).eval(), None, name, "", None)
    with pytest.raises(TargetError, match=r"target 'c' can compute .* neither in integers nor in float(.|\n)*where:"):
        driver.plan(loaded, recipe_of(8, 8), BACKEND, torch.zeros(1, 3, 9, 9))


def test_a_machine_without_a_compiler_stops_before_calibration(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    loaded = LoadedModel(little_net(), None, "net", "", None)
    with pytest.raises(TargetError, match="apt install gcc"):
        driver.plan(loaded, recipe_of(8, 8), BACKEND, torch.zeros(1, 3, 9, 9))
    with pytest.raises(TargetError, match="apt install gcc-arm-none-eabi"):
        driver.plan(loaded, recipe_of(8, 8), BACKEND, torch.zeros(1, 3, 9, 9), "cortex-m4")


@needs_gcc
def test_an_artifact_is_built_proven_and_replays_itself(built):
    assert built.passed and [level.level for level in built.parity.levels] == ["O2", "Os"]
    assert all(level.gated and level.codes.compared and not level.codes.differing for level in built.parity.levels)
    assert built.parity.integer_ops["float"] == 0 and built.parity.integer_ops["integer"] == 5
    assert {"model.c", "model.h", "model.json", "main_test.c", "golden.h", "golden.npz", "run.py",
            "cortex_m4/startup.c", "cortex_m4/mps2_an386.ld"} <= set(built.manifest.files)
    assert "void little_net_run(" in (built.folder / "model.h").read_text()
    command = [sys.executable, "run.py", "--seconds", "0.01"]
    done = subprocess.run(command, cwd=built.folder, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "PASS"


@needs_gcc
def test_two_builds_are_the_same_bytes(built, tmp_path):
    again = build(tmp_path / "again")
    for name in ("model.c", "model.h", "model.json", "golden.h", "manifest.json"):
        assert (again.folder / name).read_bytes() == (built.folder / name).read_bytes(), name


@needs_arm
def test_sizes_are_in_the_manifest(built):
    sizes = json.loads((built.folder / "manifest.json").read_text())["sizes"]
    assert has_arm_compiler() and {"model", "arena", "flash", "ram", "stack", "weights_packed"} == set(sizes)
    assert sizes["flash"] > sizes["model"] > sizes["weights_packed"]
    assert sizes["ram"] == sizes["arena"] + sizes["stack"]
    assert {"generic", "cortex-m4"} <= set(built.manifest.target.runtime)


@needs_gcc
def test_without_the_cross_compiler_only_what_is_known_is_said(built, monkeypatch):
    monkeypatch.setattr("isobit.backends.c.has_arm_compiler", lambda: False)
    assert set(BACKEND.sizes(built.folder)) == {"model", "arena"}
    assert set(BACKEND.versions()) == {"generic"}


@needs_emulator
def test_the_cortex_m4_profile_is_proven_on_the_emulated_processor(tmp_path):
    built = build(tmp_path / "artifact", "cortex-m4")
    assert built.passed and built.manifest.target.profile == "cortex-m4"
    assert BACKEND.proof_samples(built.folder) == 32
    assert "qemu-system-arm" in BACKEND.open(built.folder, "O2").command
