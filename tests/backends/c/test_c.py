"""`--target c` from a model to an artifact: what it refuses, what it ships, what it proves and what it says."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from isobit import build as driver
from isobit.backends.base import BACKENDS
from isobit.backends.c.target import TARGETS
from isobit.backends.c.toolchain import has_arm_compiler
from isobit.pipeline.errors import TargetError
from isobit.pipeline.model.modelfile import LoadedModel
from isobit.pipeline.samples.data import array_batches
from tests.backends.c.compiled import STRICT, needs_arm, needs_emulator, needs_gcc
from tests.examples.onnx_cases import FLOAT_MIDDLES, INTEGER_MIDDLES, MIDDLES, TABLE_MIDDLES, Net, frozen, recipe_of

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
@pytest.mark.parametrize("name", sorted({*FLOAT_MIDDLES} - TABLE_MIDDLES - INTEGER_MIDDLES))
def test_what_runs_in_float_elsewhere_stops_before_calibration(name):
    loaded = LoadedModel(Net(*FLOAT_MIDDLES[name]).eval(), None, name, "", None)
    with pytest.raises(TargetError, match=r"target 'c' cannot compute .* in integers(.|\n)*where:"):
        driver.plan(loaded, recipe_of(8, 8), BACKEND, torch.zeros(1, 3, 9, 9))


class ReadsItsInput(nn.Module):
    """A softmax of the input as it is given."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.conv(torch.softmax(x, 1))


@needs_gcc
def test_a_float_operator_that_reads_the_input_as_it_is_given_is_refused():
    loaded = LoadedModel(ReadsItsInput().eval(), None, "net", "", None)
    with pytest.raises(TargetError, match="C's inputs are codes, and softmax reads an input as it is given"):
        driver.plan(loaded, recipe_of(8, 8), BACKEND, torch.zeros(1, 3, 6, 6), allow_float=True)


class ReadsOneInput(nn.Module):
    """Two inputs, of which the second is not read."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x, mask):
        return self.conv(x)


@needs_gcc
def test_an_input_that_nothing_reads_is_refused_by_its_name():
    loaded = LoadedModel(ReadsOneInput().eval(), None, "net", "", None)
    with pytest.raises(TargetError, match="nothing computes with the input mask"):
        driver.plan(loaded, recipe_of(8, 8), BACKEND, (torch.zeros(1, 3, 6, 6), torch.zeros(1, 2)))


class FloatMiddle(nn.Module):
    """A softmax between two convolutions, and two outputs."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)

    def forward(self, x):
        y = torch.softmax(self.first(x), 1)
        return self.last(y).mean((2, 3)), y.argmax(1)


@pytest.fixture(scope="module")
def float_middle(tmp_path_factory):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, images = FloatMiddle().eval(), torch.randn(16, 3, 9, 9)
    batches = array_batches(images, None, 8, "calib", "random images")
    return driver.compile_model(
        LoadedModel(model, None, "net", "", None), recipe_of(8, 8), "c", batches, batches,
        tmp_path_factory.mktemp("float") / "artifact", driver.Options(allow_float=True))


@needs_gcc
def test_codes_after_a_float_operator_are_replayed_and_followed(float_middle, tmp_path):
    assert float_middle.passed and "#define GOLDEN_NEAR 1" in (float_middle.folder / "golden.h").read_text()
    assert replayed(float_middle.folder, tmp_path)[-1] == "PASS"
    # Codes of another float operator are told, and what comes next is computed from the golden ones.
    text = (float_middle.folder / "model.c").read_text()
    wrong = text.replace("code < low ? low : code > high ? high : code)", "low + high - code)")
    assert wrong != text
    other = tmp_path / "other"
    shutil.copytree(float_middle.folder, other)
    (other / "model.c").write_text(wrong)
    *told, counts, verdict = replayed(other, tmp_path)
    assert verdict == "FAIL" and len({line.split(": ")[1] for line in told}) == 1 and "softmax" in told[0]
    assert counts.endswith(f"differing: {len(told)}")


def replayed(folder, tmp_path):
    """What the test program of an artifact says; compiled with every warning."""
    program = str(tmp_path / "main_test")
    subprocess.run(["gcc", *STRICT, "-O2", "main_test.c", "-o", program, "-lm"], cwd=folder, check=True)
    return subprocess.run([program], capture_output=True, text=True).stdout.splitlines()


@needs_gcc
def test_the_header_says_where_each_output_lies_and_the_sizes_count_values(float_middle):
    header = (float_middle.folder / "model.h").read_text()
    for line in ("NET_OUTPUT_0_OFFSET 0 /* output_0: [5]", "NET_OUTPUT_0_COUNT 5",
                 "NET_OUTPUT_1_OFFSET 5 /* output_1: [7][7]", "NET_OUTPUT_1_COUNT 49"):
        assert f"#define {line}" in header
    values = BACKEND.sizes(float_middle.folder)["values"]
    assert f"{values} bytes of values of operators in float" in header


class Named(nn.Module):
    """Two outputs in a dict."""

    def __init__(self, *names):
        super().__init__()
        self.names, self.conv, self.linear = names, nn.Conv2d(1, 4, 3), nn.Linear(4, 3)

    def forward(self, x):
        y = torch.relu(self.conv(x))
        return dict(zip(self.names, (self.linear(y.mean((2, 3))), y), strict=True))


@needs_gcc
@pytest.mark.parametrize("names", [("x_q", "conv2d_q"), ("a\nb", "\r*/??/\\\u2028"), ("linear_w", "\x00\ud800 漢")])
def test_no_name_of_an_output_is_in_the_way(names, tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, images = Named(*names).eval(), torch.randn(8, 1, 5, 5)
    batches = array_batches(images, None, 8, "calib", "random images")
    built = driver.compile_model(LoadedModel(model, None, "net", "", None), recipe_of(8, 8), "c", batches, batches,
                                 tmp_path / "artifact", driver.Options())
    assert built.passed and replayed(built.folder, tmp_path)[-1] == "PASS"
    assert len(json.loads((built.folder / "model.json").read_text())["outputs"]) == 2


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
            "cortex_m4/startup.c", "cortex_m4/mps2_an386.ld", "cortex_m55/mps3_an547.ld"} <= set(built.manifest.files)
    assert "void little_net_run(" in (built.folder / "model.h").read_text()
    command = [sys.executable, "run.py", "--seconds", "0.01"]
    done = subprocess.run(command, cwd=built.folder, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "PASS"


@needs_gcc
def test_a_batch_of_the_portable_c_is_timed_here(built):
    timed = BACKENDS.get("c").contender(built.folder, 2, 1)
    timed.run()
    assert timed.runtime.endswith(" -O2") and "not the microcontroller" in timed.note


@needs_gcc
def test_two_builds_are_the_same_bytes(built, tmp_path):
    again = build(tmp_path / "again")
    for name in ("model.c", "model.h", "model.json", "golden.h", "manifest.json"):
        assert (again.folder / name).read_bytes() == (built.folder / name).read_bytes(), name


@needs_arm
def test_sizes_are_in_the_manifest(built):
    sizes = json.loads((built.folder / "manifest.json").read_text())["sizes"]
    assert has_arm_compiler() and set(sizes) == {
        "model", "arena", "arena_plain", "flash", "ram", "stack", "weights_packed"}
    assert sizes["flash"] > sizes["model"] > sizes["weights_packed"]
    assert sizes["ram"] == sizes["arena"] + sizes["stack"]
    assert {"generic", "cortex-m4"} <= set(built.manifest.target.runtime)


@needs_gcc
def test_without_the_cross_compiler_only_what_is_known_is_said(built, monkeypatch):
    monkeypatch.setattr("isobit.backends.c.has_arm_compiler", lambda: False)
    assert set(BACKEND.sizes(built.folder)) == {"model", "arena", "arena_plain"}
    assert set(BACKEND.versions()) == {"generic"}


@needs_emulator
@pytest.mark.parametrize("profile", ["cortex-m4", "cortex-m55"])
def test_a_profile_is_proven_on_the_emulated_processor(profile, tmp_path):
    built = build(tmp_path / "artifact", profile)
    assert built.passed and built.manifest.target.profile == profile
    assert BACKEND.proof_samples(built.folder) == 32
    certified = json.loads((built.folder / "certificate.json").read_text())
    assert certified["processor"].endswith(f", emulating {profile}")
    assert "qemu-system-arm" in BACKEND.open(built.folder, "O2").command
