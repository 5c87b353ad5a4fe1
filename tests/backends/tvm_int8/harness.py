"""Single steps through their kernels: codes laid out in memory as the kernels want them, and read back."""

from __future__ import annotations

from typing import Any

import numpy as np

from backends.fixed_point.program import Program
from backends.tvm_int8.expressions import expressions
from backends.tvm_int8.layout import Place, plan_places
from backends.tvm_int8.module import step_call
from backends.tvm_int8.profiles import PROFILES

PROFILE_OF = {"vnni512": "x86-64-vnni", "avx2": "x86-64-v3", "lanes": "x86-64-v3"}


def compile_kernels(texts: dict[str, str], flavour: str, llvm_target: dict[str, Any]) -> Any:
    """One module of kernels, by name."""
    import tvm
    from tvm.script import from_source

    e = expressions(flavour)
    functions = {
        name: from_source(text.replace("KERNEL", name), extra_vars={"T": e.T, "e": e}).with_attr("global_symbol", name)
        for name, text in texts.items()
    }
    with tvm.transform.PassContext(opt_level=3, config={"tirx.disable_assert": True}):
        return tvm.compile(tvm.IRModule(functions), target=tvm.target.Target(llvm_target))


def run_steps(programs: dict[str, Program], flavour: str, codes: dict[str, list[np.ndarray]]) -> dict[str, np.ndarray]:
    """What the kernels of one-step programs give for the codes [H, W, C] of their inputs: [H, W, C], or flat logits."""
    calls, texts = {}, {}
    for name, program in programs.items():
        places = plan_places(program)
        calls[name] = (step_call(program.steps[0], program, places, expressions(flavour)), places)
        texts[name] = calls[name][0].text
    module = compile_kernels(texts, flavour, PROFILES[PROFILE_OF[flavour]].llvm_target())
    return {name: _run(module[name], programs[name], *calls[name], codes[name]) for name in programs}


def _run(function: Any, program: Program, call: Any, places: list[Place], codes: list[np.ndarray]) -> np.ndarray:
    from tvm.runtime import tensor

    step = program.steps[0]
    inputs = [
        lay_out(value, places[number], program.buffers[number].zero_point)
        for number, value in zip(step.inputs, codes, strict=True)
    ]
    # What a kernel forgets to write shows.
    output = tensor(np.full(call.shape, 0xA5 if call.kind == "uint8" else np.nan, call.kind))
    function(*(tensor(np.ascontiguousarray(array)) for array in [*inputs, *call.constants]), output)
    if step.output is None:
        return output.numpy()
    return take_out(output.numpy(), places[step.output], program.buffers[step.output].zero_point)


def lay_out(codes: np.ndarray, place: Place, zero_point: int) -> np.ndarray:
    """Flat bytes; the padding lanes of the map hold noise, which no kernel may notice."""
    top, left, bottom, right = place.border
    whole = np.full((place.height + top + bottom, place.width + left + right, place.pixel), zero_point, np.uint8)
    inner = whole[top:top + place.height, left:left + place.width]
    inner[...] = np.random.default_rng(3).integers(0, 256, inner.shape)
    inner[..., :place.channels] = codes
    return whole.reshape(-1)


def take_out(flat: np.ndarray, place: Place, zero_point: int) -> np.ndarray:
    """The map; the border must hold the zero point."""
    top, left, bottom, right = place.border
    whole = flat.reshape(place.height + top + bottom, place.width + left + right, place.pixel)
    inside = np.zeros(whole.shape[:2], bool)
    inside[top:top + place.height, left:left + place.width] = True
    assert (whole[~inside][:, :place.channels] == zero_point).all()
    return whole[top:top + place.height, left:left + place.width, :place.channels]
