"""What the files state beside operators: names, sizes, macros, the description for our own tools."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from isobit.backends.c.readback import kernels
from isobit.backends.c.readback.calls import WORD, Run
from isobit.backends.c.readback.scanner import NotUnderstood, float_of
from isobit.backends.c.readback.source import Argument, Source
from isobit.backends.fixed_point.floats.steps import Compute, FloatStep
from isobit.backends.fixed_point.program import Conv, Move, Program
from isobit.backends.readback.description import Float32
from isobit.pipeline.graph.ports import INPUT, OUTPUT

WIDE = 8  # bits of weights that are not packed


def identifier(name: str) -> str:
    """The name of the network in C: what is no letter, digit or underscore becomes one underscore."""
    found = re.sub(r"[^a-zA-Z0-9_]+", "_", name.lower()).strip("_")
    return found if re.match("[a-z]", found) else f"model_{found}".rstrip("_")


def wanted_facts(program: Program, profile: str, name: str) -> dict[str, Any]:
    """What must be stated.

    Args:
        name: of the network, in C.
    """
    kinds = Counter(type(step).__name__ for step in program.steps)
    inputs = program.inputs
    facts: dict[str, Any] = {
        "packed weights": any(isinstance(step, Conv) and step.weights.bits < WIDE for step in program.steps),
        "order of tensors": tuple(_order(program)), "math.h": bool(program.floats),
        "json name": name, "json profile": profile, "json logits": list(program.logits), "json order": _order(program),
        "json kernels": dict(sorted(kinds.items())), "json tensors": [_tensor(buffer) for buffer in program.buffers],
        "json computing": sum(not isinstance(step, Move | FloatStep) for step in program.steps),
        f"macro {name.upper()}_LOGITS": math.prod(program.logits),
    }
    if program.floats:
        facts["json floats"] = kinds[Compute.__name__]
    names = list(program.input_names)
    if len(names) > 1:
        facts["json input_names"] = names
    elif names != [INPUT]:
        facts["json input_name"] = names[0]
    if [each for each, _ in program.outputs] not in ([], [OUTPUT]):
        facts["json outputs"] = [{"name": each, "shape": list(shape)} for each, shape in program.outputs]
    for place, buffer in enumerate(inputs):
        height, width, channels = buffer.shape
        said = {"COUNT": buffer.size} if buffer.integers else {
            "CHANNELS": channels, "HEIGHT": height, "WIDTH": width, "INPUT_BYTES": buffer.size,
            "INPUT_SCALE": Float32.of(buffer.scale), "INPUT_ZERO_POINT": buffer.zero_point}
        facts |= {f"input {place} {key}": value for key, value in said.items()}
    first = 0
    for place, (_, shape) in enumerate(program.outputs if len(program.outputs) > 1 else ()):
        facts |= {f"output {place} OFFSET": first, f"output {place} COUNT": math.prod(shape)}
        first += math.prod(shape)
    return facts


def _tensor(buffer: Any) -> dict[str, Any]:
    said = {"name": buffer.name, "shape": list(buffer.shape), "nchw": list(buffer.nchw), "quantized": buffer.quantized}
    return said | {key: True for key in ("in_order", "integers") if getattr(buffer, key)}


def _order(program: Program) -> list[int]:
    written = [step.output for step in program.steps if step.output is not None]
    return [number for number in (*range(len(program.input_names)), *written) if not program.buffers[number].integers]


def sizes_of(source: Source) -> dict[str, int]:
    """Elements of each input, as the header states them; raises NotUnderstood where it does not."""
    found = {}
    for each in source.inputs:
        key = f"{source.name.upper()}{each.suffix.upper()}_{'COUNT' if each.integers else 'INPUT_BYTES'}"
        if not source.macros.get(key, "").isdigit():
            raise NotUnderstood(f"model.h: {key} is {source.macros.get(key)}, not a number")
        found[each.name] = int(source.macros[key])
    return found


def found_facts(source: Source, run: Run, description: str, program: Program) -> dict[str, Any]:
    """What is stated, of the same names.

    Args:
        run: that was followed to its end.
        description: `model.json`.
        program: whose names of inputs and outputs the macros must be made of.
    """
    guard, macros = source.name.upper(), dict(source.macros)
    facts: dict[str, Any] = {"packed weights": source.packed, "order of tensors": tuple(run.order),
                             "math.h": source.mathematics}
    for place, (each, name) in enumerate(zip(source.inputs, program.input_names, strict=True)):
        _named(each, name, program.input_names)
        keys = ("COUNT",) if each.integers else (
            "CHANNELS", "HEIGHT", "WIDTH", "INPUT_BYTES", "INPUT_SCALE", "INPUT_ZERO_POINT")
        for key in keys:
            text = macros.pop(f"{guard}{each.suffix.upper()}_{key}", "")
            facts[f"input {place} {key}"] = Float32.of(float_of(text)) if key == "INPUT_SCALE" else kernels.number(text)
    facts |= _outputs(macros, source, program)
    facts[f"macro {guard}_LOGITS"] = kernels.number(macros.pop(f"{guard}_LOGITS", ""))
    said = {"arena": kernels.number(macros.pop(f"{guard}_ARENA_BYTES", "")),
            "constants": kernels.number(macros.pop(f"{guard}_CONSTANT_BYTES", ""))}
    of_plain = {**source.plain}
    said["arena in plain C"] = kernels.number(of_plain.pop(f"{guard}_ARENA_BYTES", str(said["arena"])))
    facts |= {f"macro {key} in plain C": value for key, value in of_plain.items()}
    facts |= {f"macro {key}": value for key, value in macros.items()}
    facts |= {f"json {key}": value for key, value in json.loads(description).items()}
    return facts | {f"macro {key}": value for key, value in said.items()}


def counted(source: Source, run: Run) -> dict[str, Any]:
    """What must be stated of the files' own sizes, and which kernels they must hold."""
    arena, plain = (-(-reached // WORD) * WORD for reached in (run.arena.reached, run.plain))
    constants = sum(values.nbytes for values in source.arrays.values())
    facts: dict[str, Any] = {"macro arena": arena, "macro arena in plain C": plain, "macro constants": constants,
                             "json arena": arena, "json arena_plain": plain, "json constants": constants,
                             "arena in model.c": bool(arena)}
    if source.values is not None:
        facts |= {"json values": WORD * run.values.reached, "values in model.c": run.values.reached}
    called = {kernel for kernel in map(kernels.kernel_of, run.functions) if kernel}
    needed = set().union(*(kernels.needed(kernel) for kernel in {*called, *kernels.ALWAYS}))
    return facts | {"kernels": tuple(sorted(needed)), "constants that nothing reads": ()}


def held(source: Source, run: Run) -> dict[str, Any]:
    """What is stated, or there, of the same names."""
    facts: dict[str, Any] = {"arena in model.c": source.arena, "kernels": tuple(sorted(source.kernels))}
    if source.values is not None:
        facts["values in model.c"] = source.values
    unread = {*source.arrays, *source.structures} - run.used
    return facts | {"constants that nothing reads": tuple(sorted(unread))}


def written_name(name: str, names: Sequence[str], taken: Collection[str] = ()) -> str:
    """A pattern of what stands for one of `names`: its identifier, and only where that is another's too a number."""
    own = identifier(name)
    alike = own in taken or [identifier(each) for each in names].count(own) > 1
    return own + ("(_[0-9]+)+" if alike else "")


def _named(argument: Argument, name: str, names: Sequence[str]) -> None:
    """Raises NotUnderstood where an argument does not bear the name of its input."""
    must = "codes" if len(names) == 1 else f"in_{written_name(name, names)}"
    if not re.fullmatch(must, argument.name):
        raise NotUnderstood(f"the argument {argument.name} stands for the input {name}: {must}")


def _outputs(macros: dict[str, str], source: Source, program: Program) -> Mapping[str, Any]:
    """Where each of several outputs lies; their macros are taken out."""
    facts: dict[str, Any] = {}
    said = [name for name, _ in program.outputs]
    if len(said) < 2:
        return facts
    guard, taken = source.name.upper(), [each.suffix.removeprefix("_") for each in source.inputs]
    names: Iterable[str] = [key.removesuffix("_OFFSET") for key in macros if key.endswith("_OFFSET")]
    for place, (name, output) in enumerate(zip(names, said, strict=False)):
        if not re.fullmatch(f"{guard}_{written_name(output, said, taken).upper()}", name):
            raise NotUnderstood(f"model.h: {name}_OFFSET stands for the output {output}")
        for key in ("OFFSET", "COUNT"):
            facts[f"output {place} {key}"] = kernels.number(macros.pop(f"{name}_{key}", ""))
    return facts
