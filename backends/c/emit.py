"""`model.c` and `model.h` of a program, and `model.json`, which says to our own tools what they hold."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from isobit.backends.c.constants import (
    argument_names,
    comment,
    describe_inputs,
    describe_outputs,
    float_text,
    identifier,
)
from isobit.backends.c.device_runner import DESCRIPTION, HEADER, SOURCE
from isobit.backends.c.floats.writers import value_size, values_between
from isobit.backends.c.plan import Plan, plan_arena, plan_values
from isobit.backends.c.steps import WIDE, Code, plain_scratch_bytes, scratch_bytes, write_step
from isobit.backends.fixed_point.floats.steps import Compute, FloatStep
from isobit.backends.fixed_point.program import Conv, Move, Program, Step

KERNELS = Path(__file__).parent / "kernels"
TEMPLATES = Path(__file__).parent / "templates"
# In the order in which they must stand: each may use what is above it.
KERNEL_ORDER = (
    "common", "window", "weights", "dot", "pairs", "lanes", "conv", "conv_logits", "depthwise", "sum", "product",
    "global_average", "average_pool", "max_pool", "extreme", "walk", "reduce_sum", "reduce_extreme", "arg_max",
    "gather", "resample", "lookup", "lookup_channels", "concat", "move", "move_indexed", "dequantize",
    "dequantize_part", "dequantize_indexed", "dequantize_integers", "quantize", "encode", "values", "softmax",
)


@dataclass(frozen=True)
class _Printed:
    """A step as the template wants it."""

    title: str
    constants: tuple[str, ...]
    calls: tuple[str, ...]
    trace: str


def emit_program(program: Program, folder: Path, name: str, profile: str) -> list[Path]:
    """Write the three files.

    Args:
        name: of the network; what the functions' names begin with, made into an identifier.
        profile: on whose machine sessions are to run it.

    Raises:
        TargetError: sums of a layer could leave 32 bits on the way.
    """
    name = identifier(name)
    plan = plan_arena(program, {index: (scratch_bytes(program, step), plain_scratch_bytes(step))
                                for index, step in enumerate(program.steps)})
    values, count = plan_values(
        values_between(program), {number: value_size(program, number) for number in range(len(program.floats))})
    codes = [_write(program, index, plan, values) for index in range(len(program.steps))]
    printed = {**_values(program, plan, codes, name), "values": count}
    description = _description(program, plan, codes, name, profile)
    if count:
        description["values"] = count * np.dtype(np.float32).itemsize
    files = {
        SOURCE: render(SOURCE, printed), HEADER: render(HEADER, printed),
        DESCRIPTION: json.dumps(description, indent=1) + "\n",
    }
    for file, text in files.items():
        (folder / file).write_text(text, encoding="utf-8")
    return [folder / file for file in files]


def read_description(folder: Path) -> dict[str, Any]:
    """What `model.json` says; written by `emit_program`."""
    return json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))


def render(name: str, values: Mapping[str, object]) -> str:
    """The template of that name, filled in."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), trim_blocks=True, lstrip_blocks=True, autoescape=False,
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True,
    )
    return environment.get_template(f"{name}.j2").render(values)


def _write(program: Program, index: int, plan: Plan, values: Mapping[int, int]) -> Code:
    arguments = argument_names(program.input_names)

    def pointer(tensor: int) -> str:
        if tensor < len(arguments):
            return arguments[tensor]
        words = program.buffers[tensor].integers
        return f"(int32_t *)(a + {plan.offsets[tensor]})" if words else f"a + {plan.offsets[tensor]}"

    scratch = f"(int8_t *)(a + {plan.scratch[index]})" if index in plan.scratch else "0"
    return write_step(program, index, pointer, scratch, lambda value: f"v + {values[value]}")


def _values(program: Program, plan: Plan, codes: list[Code], name: str) -> dict[str, object]:
    """What the templates print."""
    used = {"common", "quantize", *(kernel for code in codes for kernel in code.kernels)}
    return {
        "title": name, "name": name, "guard": name.upper(),
        "kernels": [(KERNELS / f"{kernel}.c").read_text(encoding="utf-8").rstrip() for kernel in KERNEL_ORDER
                    if kernel in used],
        "packed": int(any(isinstance(step, Conv) and step.weights.bits < WIDE for step in program.steps)),
        "steps": [_Printed(_title(program, step), code.constants, code.calls, _trace(program, step, plan))
                  for step, code in zip(program.steps, codes, strict=True)],
        "arena": plan.size, "arena_plain": plan.plain, "constants": sum(code.size for code in codes),
        "inputs": [
            {**facts, "zero_point": buffer.zero_point, "scale": float_text(buffer.scale),
             "about": f"{buffer.scale:.6g}"}
            for facts, buffer in zip(_inputs(program, name), program.inputs, strict=True)
        ],
        "input_bytes": sum(buffer.size * (4 if buffer.integers else 1) for buffer in program.inputs),
        "logits": int(np.prod(program.logits)),
        "outputs": describe_outputs(name, program.input_names, program.outputs),
    }


def _inputs(program: Program, name: str) -> list[dict[str, Any]]:
    return describe_inputs(name, program.input_names, [(buffer.shape, buffer.integers) for buffer in program.inputs])


def _title(program: Program, step: Step) -> str:
    """`layer1.0.conv1: conv2d, 32 x 32 x 16`, without what would end a comment."""
    if isinstance(step, FloatStep) and step.writes is not None:
        shape = program.floats[step.writes].shape
    else:
        logits = program.logits if step.logits is None else step.logits[1:]
        shape = logits if step.output is None else program.buffers[step.output].shape
    text = f"{step.module or step.name}: {type(step).__name__}, {' x '.join(map(str, shape))}"
    return comment(text)


def _trace(program: Program, step: Step, plan: Plan) -> str:
    if step.output is None or program.buffers[step.output].integers:
        return ""
    return f"{step.output}, a + {plan.offsets[step.output]}, {program.buffers[step.output].size}"


def _description(program: Program, plan: Plan, codes: list[Code], name: str, profile: str) -> dict[str, object]:
    kinds = Counter(type(step).__name__ for step in program.steps)
    return {
        "name": name,
        "profile": profile,
        "arena": plan.size,
        "arena_plain": plan.plain,
        "constants": sum(code.size for code in codes),
        "tensors": [
            {"name": buffer.name, "shape": list(buffer.shape), "nchw": list(buffer.nchw), "quantized": buffer.quantized,
             **{key: True for key in ("in_order", "integers") if getattr(buffer, key)}}
            for buffer in program.buffers
        ],
        "order": [number for number in program.order if not program.buffers[number].integers],
        "logits": list(program.logits),
        **program.ports,
        "kernels": dict(sorted(kinds.items())),
        "computing": sum(not isinstance(step, Move | FloatStep) for step in program.steps),
        **({"floats": kinds[Compute.__name__]} if program.floats else {}),
    }
