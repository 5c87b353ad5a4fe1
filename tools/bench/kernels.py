"""Time of single convolutions in the kernels of `--target tvm`: what a layer costs, and how near its kernel is to
what the processor can do.

    python tools/bench/kernels.py x86-64-vnni 32,16,16,3 112,32,32,3,1,32

Layers are given as size, input channels, filters, kernel[, stride[, groups]], with "same" padding and random weights.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from isobit.backends.fixed_point.code_ranges import largest_codes
from isobit.backends.fixed_point.program import Buffer, Conv, Lookup, Program, Weights, Window
from isobit.backends.fixed_point.rescale import Part, make_rescale
from isobit.backends.tvm.instructions import instruction_set
from isobit.backends.tvm.kernels.layout import plan_places
from isobit.backends.tvm.module import step_call
from isobit.backends.tvm.profiles import DeviceProfile, resolve

REPEATS, CALLS = 30, 10


def layer(
    size: int, channels: int, filters: int, kernel: int, stride: int = 1, groups: int = 1, bits: int = 8
) -> Program:
    """A program of one convolution whose weights and codes are of `bits`; the codes come from a copy."""
    random, pad, half = np.random.default_rng(0), kernel // 2, 1 << (bits - 1)
    codes = random.integers(1 - half, half, (filters, kernel, kernel, channels // groups)).astype(np.int8)
    out = (size + 2 * pad - kernel) // stride + 1
    buffers = tuple(
        Buffer(name, (side, side, depth), 0, 0.1, True, (depth, side, side))
        for name, side, depth in (("x", size, channels), ("y", out, filters), ("bytes", size, channels))
    )
    bound = int(np.abs(codes.astype(int)).sum((1, 2, 3)).max()) * 255
    rescale = make_rescale([Part(random.uniform(0.5, 1.0, filters) * 300 / bound, bound)], 0)
    step = Conv("y", "layer", (0,), 1, Weights(codes, bits, np.full(filters, half, np.int16)),
                random.integers(-2000, 2000, filters).astype(np.int32),
                Window((kernel, kernel), (stride, stride), (pad,) * 4), groups, rescale, 0, 2 * half - 1, None)
    narrowed = Lookup("x", "", (2,), 0, np.arange(256, dtype=np.uint8).clip(0, 2 * half - 1),
                      high=2 * half - 1)
    return Program(buffers, (narrowed, step), ())


def compile_layer(program: Program, profile: DeviceProfile) -> tuple[Any, list[Any]]:
    """The compiled kernel and its arguments."""
    import tvm
    from tvm.runtime import tensor

    places = plan_places(program)
    call = step_call(program.steps[-1], program, places, instruction_set(profile.flavour))
    with tvm.transform.PassContext(opt_level=3, config={"tirx.disable_assert": True}):
        module = tvm.compile(
            tvm.IRModule({"kernel": call.kernel}),
            target=tvm.target.Target(profile.llvm_target()),
        )
    codes = np.random.default_rng(0).integers(0, largest_codes(program)[0] + 1, places[0].size).astype(np.uint8)
    arrays = [codes, *call.constants, np.zeros(call.shape, call.kind)]
    return module["kernel"], [tensor(np.ascontiguousarray(array)) for array in arrays]


def seconds(function: Any, arguments: list[Any]) -> float:
    """The best of many calls: other work on the machine only ever adds."""
    best = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        for _ in range(CALLS):
            function(*arguments)
        best = min(best, (time.perf_counter() - start) / CALLS)
    return best


def main() -> int:
    """Print a row for each layer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("profile", help="device profile that runs on this machine, or native")
    parser.add_argument("layers", nargs="+", metavar="SIZE,CHANNELS,FILTERS,KERNEL[,STRIDE[,GROUPS]]")
    parser.add_argument("--bits", type=int, default=8, help="of weights and codes")
    given = parser.parse_args()
    profile = resolve(given.profile)
    for text in given.layers:
        numbers = [int(part) for part in text.split(",")]
        program = layer(*numbers, bits=given.bits)
        spent = seconds(*compile_layer(program, profile))
        out = program.buffers[1].shape
        products = out[0] * out[1] * program.steps[-1].weights.codes.size
        print(f"{profile.name}  {text:22} {spent * 1e6:9.1f} us {products / spent / 1e9:7.0f} GMAC/s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
