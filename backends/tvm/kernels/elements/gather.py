"""Rows of a table, one for each integer of the input."""

from __future__ import annotations

import numpy as np

from isobit.backends.fixed_point.operators.steps import Gather
from isobit.backends.fixed_point.program import (
    Program,
)
from isobit.backends.tvm.instructions.base import InstructionSet
from isobit.backends.tvm.kernels.kernel import Argument, Call, Code, fill_border, make_kernel
from isobit.backends.tvm.kernels.layout import Place, output_of


def gather_call(step: Gather, program: Program, places: list[Place], e: InstructionSet) -> Call:
    """An integer outside of the table counts as the nearest row."""
    source, target = places[step.inputs[0]], places[output_of(step)]
    rows, length = step.table.shape
    count, zero = program.buffers[step.inputs[0]].size, program.buffers[output_of(step)].zero_point

    def write(code: Code) -> None:
        fill_border(code, target, e.number("uint8", zero), code["output"])
        with code.loop("number", count) as i, code.loop("channel", length) as c:
            row = e.larger(e.smaller(code["integers"][i], rows - 1), 0)
            code.store(code["output"], target.at(0, 0) + i * target.pixel + c, code["table"][row * length + c])

    table = step.table.astype(np.uint8).reshape(-1)
    arguments = [
        Argument("integers", (source.size,), "int32"), Argument("table", table.shape, "uint8"),
        Argument("output", (target.size,), "uint8"),
    ]
    return Call("gather", make_kernel(arguments, write), step.inputs, (table,), (target.size,))
