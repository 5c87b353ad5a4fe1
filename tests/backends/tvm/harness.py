"""Single steps through their kernels: codes laid out in memory as the kernels want them, and read back."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isobit.backends.device.processor import features, read_cpuinfo
from isobit.backends.fixed_point.program import Program
from isobit.backends.tvm.device.toolchain import check_packages, emulation
from isobit.backends.tvm.instructions import instruction_set
from isobit.backends.tvm.instructions.base import Expr, InstructionSet
from isobit.backends.tvm.kernels.kernel import Argument, Call, Code, make_kernel
from isobit.backends.tvm.kernels.layout import Place, plan_places
from isobit.backends.tvm.module import step_call
from isobit.backends.tvm.profiles import PROFILES, DeviceProfile
from isobit.pipeline.errors import TargetError
from tests.backends.fixed_point import oracle

# What runs on x86: the kernels without intrinsics are those of plain ARMv8, compiled for AVX2 here.
NATIVE = {"vnni512": PROFILES["x86-64-vnni"], "vnni256": PROFILES["x86-64-avxvnni"], "avx2": PROFILES["x86-64-v3"],
          "lanes": PROFILES["x86-64-v3"]}
# Whole modules for AVX-VNNI, where a processor has AVX-512's alone: the same kernels, compiled for that.
OF_AVX512 = replace(PROFILES["x86-64-vnni"], flavour="vnni256")
ASSEMBLER = "g++"


def needs_tvm() -> None:
    """Skip where TVM is not installed, or not the right one."""
    try:
        check_packages()
    except TargetError as error:
        pytest.skip(error.what)


def native(flavour: str) -> DeviceProfile:
    """The profile by which modules of a flavour run on this processor, if any does."""
    return OF_AVX512 if _encoded_otherwise(NATIVE[flavour].llvm_target()) else NATIVE[flavour]


def needs(flavour: str) -> dict[str, Any]:
    """LLVM's target for a flavour whose kernels run on this processor; else the test is skipped."""
    needs_tvm()
    profile = native(flavour)
    try:
        emulated = emulation(profile)
    except TargetError as error:
        pytest.skip(error.what)
    if emulated:
        pytest.skip(f"this processor lacks the features of {profile.name}")
    if profile is OF_AVX512 and shutil.which(ASSEMBLER) is None:
        pytest.skip(f"needs {ASSEMBLER}")
    return NATIVE[flavour].llvm_target()


def compile_kernels(calls: dict[str, Call], llvm_target: dict[str, Any]) -> Any:
    """One module of kernels, by name.

    `vpdpbusd` of AVX-VNNI is encoded as AVX-512's where a processor has that alone; every other instruction, and every
    register, is what AVX-VNNI gets.
    """
    module = _compiled(calls, llvm_target)
    return _in_evex(module.mod.inspect_source("s")) if _encoded_otherwise(llvm_target) else module


def _compiled(calls: dict[str, Call], llvm_target: dict[str, Any]) -> Any:
    import tvm

    functions = {name: call.kernel.with_attr("global_symbol", name) for name, call in calls.items()}
    with tvm.transform.PassContext(opt_level=3, config={"tirx.disable_assert": True}):
        return tvm.compile(tvm.IRModule(functions), target=tvm.target.Target(llvm_target))


def _encoded_otherwise(llvm_target: dict[str, Any]) -> bool:
    return "+avxvnni" in llvm_target.get("mattr", ()) and "avx_vnni" not in features(read_cpuinfo())


def _in_evex(text: str) -> Any:
    import tvm

    # LLVM writes folder and name of a file apart, which gcc's assembler takes for the older form only.
    text = re.sub(r'(\.file\s+\d+) "[^"]*" ("[^"]*")', r"\1 \2", text.replace("{vex}", "{evex}"))
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "kernels.s", Path(folder) / "kernels.so"
        source.write_text(text + "\n", encoding="utf-8")
        subprocess.run([ASSEMBLER, "-shared", "-fPIC", "-o", library, source], check=True)
        return tvm.runtime.load_module(str(library))


def in_a_thread_of_its_own(run: Callable[[], Any]) -> Any:
    """What `run` gives: TVM's pool of threads belongs to the thread that calls, and ends with it."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()


def assembly(call: Call, llvm_target: dict[str, Any]) -> str:
    """What LLVM makes of one kernel."""
    return _compiled({"kernel": call}, llvm_target).mod.inspect_source("s")


def profile_assembly(program: Program, name: str) -> str:
    """What LLVM makes of the kernel of a program's last step for a device profile."""
    needs_tvm()
    profile = PROFILES[name]
    call = step_call(program.steps[-1], program, plan_places(program), instruction_set(profile.flavour))
    return assembly(call, profile.llvm_target())


def multiplications(text: str) -> set[str]:
    """The instructions of an assembly text that multiply narrow integers and sum."""
    return set(re.findall(r"\b(vpdpbusd|vpmaddwd|vpmaddubsw|usdot|sdot|udot|smlal)2?\b", text))


def run_vectors(
    e: InstructionSet, inputs: dict[str, np.ndarray], kind: str, write: Callable[[Code], Expr]
) -> np.ndarray:
    """What one vector expression gives: `write` makes it of flat buffers by name; `kind` is of its elements."""
    from tvm.runtime import tensor

    lanes: list[int] = []

    def write_all(code: Code) -> None:
        value = write(code)
        lanes.append(int(str(value.ty.dtype).rpartition("x")[2]))
        code.store(code["output"], 0, value, lanes[0])

    arguments = [Argument(name, array.shape, array.dtype.name) for name, array in inputs.items()]
    call = Call("vectors", make_kernel([*arguments, Argument("output", (256,), kind)], write_all), (), (), (256,), kind)
    output = tensor(np.zeros(256, kind))
    compile_kernels({"kernel": call}, needs(e.flavour))["kernel"](*(tensor(array) for array in inputs.values()), output)
    return output.numpy()[:lanes[0]]


def differing(
    programs: dict[str, Program], flavour: str, codes: Callable[[tuple[int, ...]], np.ndarray] | None = None
) -> list[str]:
    """Names of programs whose last step's kernel gives other numbers than the oracle: for random codes, or `codes`."""
    llvm_target = needs(flavour)
    places = {name: plan_places(program) for name, program in programs.items()}
    calls = {
        name: step_call(program.steps[-1], program, places[name], instruction_set(flavour))
        for name, program in programs.items()
    }
    # TVM's functions are named after the cases, which are titles.
    symbols = {name: f"k{number}" for number, name in enumerate(calls)}
    module = compile_kernels({symbols[name]: call for name, call in calls.items()}, llvm_target)
    return [
        name for name, program in programs.items()
        if not _agrees(module[symbols[name]], program, calls[name], places[name], codes)
    ]


def _agrees(
    function: Any, program: Program, call: Call, places: list[Place],
    given: Callable[[tuple[int, ...]], np.ndarray] | None,
) -> bool:
    step = program.steps[-1]
    codes = [oracle.random_codes(program, number, 1, seed=1 + place) if given is None else
             given((1, *program.buffers[number].shape)) for place, number in enumerate(step.inputs)]
    wanted = oracle.compute(program, step, [value.astype(np.int64) for value in codes])[0]
    got = _run(function, program, call, places, [value[0] for value in codes])
    if step.output is None:
        return np.array_equal(wanted.ravel().view(np.uint32), got[:wanted.size].view(np.uint32))
    return np.array_equal(wanted, got)


def _run(function: Any, program: Program, call: Call, places: list[Place], codes: list[np.ndarray]) -> np.ndarray:
    """The output's map [H, W, C], or padded logits, for maps of codes."""
    from tvm.runtime import tensor

    step = program.steps[-1]
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
    return np.append(whole.reshape(-1), np.full(place.size - whole.size, 0xA5, np.uint8))


def take_out(flat: np.ndarray, place: Place, zero_point: int) -> np.ndarray:
    """The map; the border must hold the zero point."""
    top, left, bottom, right = place.border
    whole = flat[:place.rows * place.row].reshape(place.height + top + bottom, place.width + left + right, place.pixel)
    inside = np.zeros(whole.shape[:2], bool)
    inside[top:top + place.height, left:left + place.width] = True
    assert (whole[~inside][:, :place.channels] == zero_point).all()
    return whole[top:top + place.height, left:left + place.width, :place.channels]
