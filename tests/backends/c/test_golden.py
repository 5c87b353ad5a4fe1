"""golden.h: checksums that no single change survives; main_test.c passes on the truth and on nothing else."""

import re
import subprocess

import numpy as np
import pytest

from isobit.backends.c.golden import FACTOR, checksums
from tests.backends.c.compiled import STRICT, needs_emulator, needs_gcc, write_artifact
from tests.examples import programs

PROGRAM = programs.every_step(3)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    return write_artifact(PROGRAM, tmp_path_factory.mktemp("artifact"))


def replay(folder, tmp_path, *options):
    """Compile and run the test main as its comment says, with everything that a compiler can complain about."""
    command = ["gcc", *STRICT, "-O2", *options, "main_test.c", "-o", str(tmp_path / "main_test")]
    subprocess.run(command, cwd=folder, check=True)
    done = subprocess.run([tmp_path / "main_test"], capture_output=True, text=True)
    return done.returncode, done.stdout.splitlines()


def changed(folder, tmp_path, name, edit):
    """A copy of the artifact in which one file is another."""
    for source in ("model.c", "model.h", "golden.h", "main_test.c"):
        (tmp_path / source).write_text((folder / source).read_text())
    text = (tmp_path / name).read_text()
    assert edit(text) != text
    (tmp_path / name).write_text(edit(text))
    return tmp_path


def test_checksums_are_the_sum_of_the_c_loop():
    codes = np.random.default_rng(0).integers(0, 256, (3, 4, 5)).astype(np.uint8)
    for row, found in zip(codes.reshape(3, -1), checksums(codes), strict=True):
        total = 0
        for code in row.tolist():
            total = (total * FACTOR + code) % (1 << 32)
        assert total == found


def test_every_single_change_is_seen():
    codes = np.random.default_rng(0).integers(0, 256, (1, 40)).astype(np.uint8)
    for place in range(40):
        other = codes.copy()
        other[0, place] ^= 1 << place % 8
        assert checksums(other) != checksums(codes)


@needs_gcc
def test_the_truth_passes(artifact, tmp_path):
    quantized = sum(buffer.quantized for buffer in PROGRAM.buffers)
    code, lines = replay(artifact, tmp_path)
    assert code == 0 and lines == [f"samples: 3, tensors compared: {3 * quantized}, differing: 0", "PASS"]


@needs_emulator
def test_the_truth_passes_on_a_processor_without_simd(artifact, tmp_path):
    """The plain inner loops of a Cortex-M3; the board is the same."""
    board = ["--specs=rdimon.specs", "-nostartfiles", "-T", "cortex_m4/mps2_an386.ld", "cortex_m4/startup.c"]
    compiler = ["arm-none-eabi-gcc", "-mcpu=cortex-m3", "-mthumb", *STRICT, "-O2"]
    program = str(tmp_path / "main_test")
    subprocess.run([*compiler, *board, "main_test.c", "-o", program], cwd=artifact, check=True)
    emulator = ["qemu-system-arm", "-M", "mps2-an385", "-nographic", "-monitor", "none", "-semihosting", "-kernel"]
    done = subprocess.run([*emulator, program], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "PASS"


@needs_gcc
def test_fewer_samples_are_replayed_on_request(artifact, tmp_path):
    code, lines = replay(artifact, tmp_path, "-DGOLDEN_SAMPLES=1")
    assert code == 0 and lines[0].startswith("samples: 1, ") and lines[-1] == "PASS"


@needs_gcc
def test_a_weight_that_changed_fails(artifact, tmp_path):
    def edit(text):
        return re.sub(r"(uint8_t weights_1\[\d+\] = \{\s*)(\d+)", lambda m: m[1] + str(int(m[2]) ^ 1), text)

    code, lines = replay(changed(artifact, tmp_path, "model.c", edit), tmp_path)
    assert code == 1 and lines[-1] == "FAIL" and "sample 0: t2 differs" in lines


@needs_gcc
def test_an_input_that_changed_fails_at_the_input(artifact, tmp_path):
    def edit(text):
        return re.sub(r"(golden_inputs.*?\{\s+)(\d+)", lambda m: m[1] + str(int(m[2]) ^ 1), text, flags=re.DOTALL)

    code, lines = replay(changed(artifact, tmp_path, "golden.h", edit), tmp_path)
    assert code == 1 and lines[0] == "sample 0: t0 differs" and lines[-1] == "FAIL"


@needs_gcc
def test_a_logit_that_changed_fails(artifact, tmp_path):
    def edit(text):
        return re.sub(r"(golden_logits.*?\{\s+)(\d+)u", lambda m: f"{m[1]}{int(m[2]) ^ 1}u", text, flags=re.DOTALL)

    code, lines = replay(changed(artifact, tmp_path, "golden.h", edit), tmp_path)
    assert code == 1 and lines[0] == "sample 0: logits differ" and "differing: 1" in lines[1]


@needs_gcc
def test_a_tensor_that_is_never_shown_fails(artifact, tmp_path):
    def edit(text):
        return re.sub(r"    ISOBIT_TRACE\(1, [^;]*;\n", "", text)

    code, lines = replay(changed(artifact, tmp_path, "model.c", edit), tmp_path)
    assert code == 1 and lines[-1] == "FAIL" and "differing: 0" in lines[0]
