"""Programs as files of an artifact, and what their compiled form computes beside the oracle."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from isobit.backends.c import DEVICE, device_runner
from isobit.backends.c.emit import emit_program
from isobit.backends.c.golden import write_golden_header
from isobit.backends.c.session import CSession
from isobit.backends.device.standalone import standalone
from isobit.backends.fixed_point.program import Program
from isobit.pipeline.proof.parity import LOGITS
from tests.backends.fixed_point import oracle
from tests.examples.sealed import seal

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Wstrict-prototypes", "-Werror")
needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc (Debian: apt install gcc libc6-dev)")
needs_arm = pytest.mark.skipif(
    shutil.which("arm-none-eabi-gcc") is None,
    reason="needs arm-none-eabi-gcc (Debian: apt install gcc-arm-none-eabi libnewlib-arm-none-eabi)",
)
HAS_EMULATOR = shutil.which("arm-none-eabi-gcc") is not None and shutil.which("qemu-system-arm") is not None
needs_emulator = pytest.mark.skipif(
    not HAS_EMULATOR,
    reason="needs a Cortex-M4 (Debian: apt install gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm)",
)


def write(program: Program, folder: Path, profile: str = "generic") -> Path:
    """The files that depend on no golden vectors."""
    shutil.copytree(DEVICE, folder, dirs_exist_ok=True)
    emit_program(program, folder, "net", profile)
    return folder


def images_of(program: Program, codes: np.ndarray) -> np.ndarray:
    """float32 [N, C, H, W] that are quantized to these codes."""
    x = (codes.astype(np.float32) - program.input.zero_point) * np.float32(program.input.scale)
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def expected(program: Program, samples: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Images, and the oracle's codes in the graph's shapes with the logits."""
    codes = oracle.random_codes(program, 0, samples)
    tensors, logits = oracle.run(program, codes)
    results = {
        buffer.name: values.transpose(0, 3, 1, 2).reshape(samples, *buffer.nchw)
        for buffer, values in zip(program.buffers, tensors, strict=True) if buffer.quantized
    }
    return images_of(program, codes), {**results, LOGITS: logits}


def assert_exact(program: Program, folder: Path, level: str = "O2", profile: str = "generic", samples: int = 2) -> None:
    """Every quantized tensor and the logits are the oracle's, bit by bit."""
    images, wanted = expected(program, samples)
    got = CSession(write(program, folder, profile), level).run(images)
    assert list(got) == list(wanted)
    for name, values in wanted.items():
        assert got[name].dtype == values.dtype and got[name].shape == values.shape
        assert got[name].tobytes() == values.tobytes(), name


def write_artifact(program: Program, folder: Path, samples: int = 3) -> Path:
    """A folder with everything that is shipped; the vectors are the oracle's."""
    images, wanted = expected(program, samples)
    write(program, folder)
    codes = {f"code:{name}": values for name, values in wanted.items() if name != LOGITS}
    np.savez_compressed(folder / "golden.npz", input=images, logits=wanted[LOGITS], **codes)
    write_golden_header(folder)
    (folder / "run.py").write_text(standalone(Path(device_runner.__file__)), encoding="utf-8")
    seal(folder)
    return folder
