"""Every kind of kernel in the instructions of each Arm profile, run under the emulator and held to the oracle."""

from __future__ import annotations

import math
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from isobit.backends.fixed_point.lower import lower
from isobit.backends.fixed_point.program import Buffer, Move, Program, Step
from isobit.backends.fixed_point.rules import integer_target
from isobit.backends.tvm.device.device_files import write_device_files
from isobit.backends.tvm.device.emulated import EmulatedSession
from isobit.backends.tvm.device.toolchain import emulation
from isobit.backends.tvm.profiles import PROFILES
from tests.backends.fixed_point import oracle
from tests.backends.tvm.conftest import needs
from tests.examples.onnx_cases import frozen

pytestmark = [pytest.mark.tvm, pytest.mark.slow]
ARM = [name for name in PROFILES if name.startswith("aarch64")]
DOT_PRODUCT = {"aarch64-i8mm": "usdot", "aarch64-dotprod": "sdot", "aarch64": None}
TARGET = integer_target("test", "any")


# Of `cases`, one for each kind of step; the others differ in numbers only.
NETWORKS = (
    "relu", "depthwise", "add", "add_itself", "mul", "squeeze_excite", "silu", "avg_pool_padded", "max_pool",
    "cat_signed", "pad_slice", "shuffle",
)
# Shapes that no network of `cases` has; odd counts fill no vector.
CONVOLUTIONS = {
    "odd": oracle.make_conv((7, 5, 13), 11, zero_points=(3, 7)),
    "few": oracle.make_conv((4, 4, 1), 1, (1, 1), padding=(0,) * 4, bits=2, high=3),
    "grouped": oracle.make_conv((6, 6, 24), 12, groups=3, bits=3, stride=(2, 1), zero_points=(9, 0)),
    "wide groups": oracle.make_conv((3, 3, 34), 68, (1, 1), padding=(0,) * 4, groups=2, bits=4),
    "depthwise": oracle.make_conv((9, 8, 21), 21, (5, 5), groups=21, padding=(2, 2, 2, 2), zero_points=(5, 0)),
    "multiplier": oracle.make_conv((5, 5, 6), 12, groups=6, bits=4, zero_points=(0, 4)),
    "dilated": oracle.make_conv((9, 9, 8), 16, padding=(2, 2, 2, 2), dilation=(2, 2), bits=2, high=15),
    "lopsided": oracle.make_conv((5, 6, 16), 17, (3, 2), stride=(2, 2), padding=(0, 1, 2, 0), zero_points=(8, 8)),
    "residual": oracle.make_conv((4, 5, 20), 19, residual_zero=6, zero_points=(2, 1), signed=False, bits=4),
    "asymmetric": oracle.make_conv((4, 4, 16), 32, signed=False, bits=3, low=2, high=250),
}


def merged(programs: dict[str, Program]) -> Program:
    """Programs side by side as one that builds once; the last one's logits are kept.

    All read the first one's image, as it is or, where the shape is another, its codes over and over.
    """
    last, image = list(programs.values())[-1], next(iter(programs.values())).input
    buffers: list[Buffer] = [image]
    steps: list[Step] = []
    for name, program in programs.items():
        written = {step.output for step in program.steps}
        numbers: dict[int | None, int | None] = {None: None}
        for number, buffer in enumerate(program.buffers):
            if number == 0 and buffer.shape == image.shape:
                numbers[number] = 0
                continue
            numbers[number] = len(buffers)
            buffers.append(replace(buffer, name=f"{name}.{number}.{buffer.name}", quantized=True))
            if number not in written:
                index = (np.arange(math.prod(buffer.shape)) * 7 + number) % math.prod(image.shape)
                title = f"{name}.{number}"
                steps.append(Move(title, title, (0,), numbers[number], (1, 1), (0, 0),
                                  np.zeros(buffer.shape[2], np.int32), index.astype(np.int32)))
        steps += [
            replace(step, inputs=tuple(numbers[i] for i in step.inputs), output=numbers[step.output])
            for step in program.steps if step.output is not None or program is last
        ]
    return Program(tuple(buffers), tuple(steps), last.logits)


@pytest.fixture(scope="module")
def every_kernel():
    """Lowered networks of every kind of step, which share kernels at equal bits, and the convolutions above."""
    (first, program), *others = [(name, lower(frozen(name, 4, 4, target=TARGET)[0])) for name in NETWORKS]
    return merged({first: program, **CONVOLUTIONS, **dict(others)})


@pytest.mark.parametrize("name", ARM)
def test_every_code_of_every_kernel_is_the_oracles(every_kernel, name, tmp_path):
    needs(name)
    profile = PROFILES[name]
    build(every_kernel, profile, tmp_path)
    x = np.random.default_rng(0).normal(0, 1.5, (3, 3, 9, 9)).astype(np.float32)
    image = every_kernel.input
    codes = np.clip(np.rint(x / np.float32(image.scale)) + image.zero_point, 0, 255).astype(np.uint8)
    tensors, logits = oracle.run(every_kernel, codes.transpose(0, 2, 3, 1))
    got = EmulatedSession(tmp_path, emulation(profile)).run(x)
    differing = [
        buffer.name for buffer, wanted in zip(every_kernel.buffers, tensors, strict=True)
        if not np.array_equal(got[buffer.name], wanted.transpose(0, 3, 1, 2).reshape(3, *buffer.nchw))
    ]
    assert not differing
    assert np.array_equal(got["logits"].view(np.uint32), logits.view(np.uint32))
    dump = subprocess.run(
        [f"{profile.machine.triple}-objdump", "-d", tmp_path / "model.so"], capture_output=True, text=True, check=True
    ).stdout
    used = {instruction for instruction in ("sdot", "usdot", "udot") if f"\t{instruction}\t" in dump}
    assert used == ({DOT_PRODUCT[name]} if DOT_PRODUCT[name] else set())


def build(program: Program, profile, folder: Path) -> None:
    from isobit.backends.tvm.build import module_builder, write_module

    builder = module_builder(program, profile)
    write_module(builder, profile, folder / "model.so")
    write_device_files(folder, profile, program, builder.traced, builder.kernel_counts())
