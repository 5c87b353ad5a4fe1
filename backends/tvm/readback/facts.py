"""What the files of a module state beside calls: its functions, its machine, the description for sessions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np

from isobit.backends.fixed_point.floats.steps import Compute
from isobit.backends.fixed_point.program import Buffer, Conv, Program, Step
from isobit.backends.tvm.profiles import PROFILES, DeviceProfile
from isobit.backends.tvm.readback.executable import Executable, Register
from isobit.backends.tvm.readback.flow import computed_from
from isobit.backends.tvm.readback.wanted import FLOAT, WantedModule
from isobit.pipeline.graph.ports import INPUT, OUTPUT

PACKAGES = ("apache-tvm", "apache-tvm-ffi")
_ELF_MACHINE = slice(18, 20)


def found_facts(content: bytes, executable: Executable, said: Mapping[str, Any]) -> dict[str, Any]:
    """What is stated.

    Args:
        content: of `model.so`.
        said: `device.json`.
    """
    given = {id(value) for function in executable.functions.values() for instruction in function.instructions
             for value in instruction.arguments if not isinstance(value, Register | int)}
    spare = [number for number, value in enumerate(executable.constants) if id(value) not in given]
    bodies = {f"{name}, computed from": list(computed_from(executable, name))
              for name in executable.functions if name.startswith(FLOAT)}
    return {"machine of the code": int.from_bytes(content[_ELF_MACHINE], "little"), **bodies,
            "functions": sorted(executable.functions), "constants that nothing reads": spare,
            **{f"device.json {key}": _shown(value) for key, value in said.items()}}


def wanted_facts(program: Program, profile: DeviceProfile, module: WantedModule) -> dict[str, Any]:
    """What must be."""
    calls = dict.fromkeys(step.call for step in program.steps if isinstance(step, Compute))
    bodies = {f"{FLOAT}_{number}": len(call.arguments) for number, call in enumerate(calls)}
    functions = [*module.functions, *bodies]
    edges = {f"{name}, computed from": list(range(count)) for name, count in bodies.items()}
    return {"machine of the code": profile.machine.elf, **edges, "functions": sorted(functions),
            "constants that nothing reads": [],
            **{f"device.json {key}": _shown(value) for key, value in _described(program, profile, module).items()}}


def _shown(value: Any) -> str:
    """A value as it stands in the file, so that `true` is not 1."""
    return json.dumps(value)


def _described(program: Program, profile: DeviceProfile, module: WantedModule) -> dict[str, Any]:
    machine = profile.machine
    alike = {each.name: list(each.features) for each in PROFILES.values() if each.machine.name == machine.name}
    facts: dict[str, Any] = {
        "profile": profile.name, "machine": machine.name, "triple": machine.triple,
        "cpu_features": list(profile.features), "profiles": alike,
        "packages": {name: version(name) for name in PACKAGES},
        "trace": [_traced(program.buffers[number]) for number in module.traced], "logits": list(program.logits),
        "multiply_accumulates": sum(_products(step, program) for step in program.steps if isinstance(step, Conv)),
        "kernels": _kernels(module),
    }
    inputs = [_input(buffer) for buffer in program.inputs]
    facts |= {"inputs": inputs} if len(inputs) > 1 else inputs[0]
    if module.followed:
        facts["follow"] = [program.buffers[number].name for number in module.followed]
    names = list(program.input_names)
    if len(names) > 1:
        facts["input_names"] = names
    elif names != [INPUT]:
        facts["input_name"] = names[0]
    if program.outputs and [name for name, _ in program.outputs] != [OUTPUT]:
        facts["outputs"] = [{"name": name, "shape": list(shape)} for name, shape in program.outputs]
    return facts


def _input(buffer: Buffer) -> dict[str, Any]:
    shape = list(buffer.nchw)
    if buffer.integers:
        whole = {"dtype": "int32", "shape": shape}
        return {"input": whole, "codes": whole}
    codes = {"dtype": "uint8", "nhwc": list(buffer.shape), "scale": buffer.scale, "zero_point": buffer.zero_point}
    return {"input": {"dtype": "float32", "shape": shape}, "codes": codes}


def _traced(buffer: Buffer) -> dict[str, Any]:
    said = {"name": buffer.name, "nhwc": list(buffer.shape), "shape": list(buffer.nchw)}
    return said | ({"in_order": True} if buffer.in_order else {})


def _products(step: Step, program: Program) -> int:
    """How many products of weights and codes it takes."""
    if not isinstance(step, Conv):
        return 0
    outputs = program.logits_of(step)[1] if step.output is None else program.buffers[step.output].size
    return int(np.prod(step.weights.codes.shape[1:])) * outputs


def _kernels(module: WantedModule) -> dict[str, int]:
    entered = sum(module.enters(number) for number in range(len(module.program.inputs)))
    counts = Counter(kernel.name for kernel in module.steps)
    counts += Counter({"quantize": entered, "arrive": len(module.program.raw), "finish": 1})
    return dict(sorted(counts.items()))
