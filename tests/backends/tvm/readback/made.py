"""Modules of small programs, without what else goes onto a device."""

from __future__ import annotations

import json
from pathlib import Path

from isobit.backends.fixed_point.program import Program
from isobit.backends.tvm.build import module_builder, write_module
from isobit.backends.tvm.device.device_files import describe
from isobit.backends.tvm.profiles import PROFILES
from isobit.backends.tvm.readback.read_back import DESCRIPTION, MODEL, read_back
from isobit.pipeline.proof.findings import ReadBack
from tests.examples.programs import Builder


def small(bits: int = 4) -> Program:
    """A residual network with a mean, of two quantized maps of one place."""
    net = Builder((6, 6, 4), bits=bits, signed=False)
    first = net.conv(0, 8)
    second = net.conv(first, 8, residual=first)
    third = net.conv(net.global_average(second), 5, (1, 1), padding=(0, 0, 0, 0), logits=True)
    return net.build(third)


def written(program: Program, profile: str, folder: Path) -> Path:
    """The files that are read back."""
    device = PROFILES[profile]
    builder = module_builder(program, device)
    write_module(builder, device, folder / MODEL)
    said = describe(device, program, builder.traced, builder.kernel_counts(), builder.followed)
    (folder / DESCRIPTION).write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    return folder


def read(program: Program, profile: str, folder: Path) -> ReadBack:
    """What the reader says of them."""
    return read_back(program, folder, PROFILES[profile])
