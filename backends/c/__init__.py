"""Portable C99: `model.c` and `model.h` for microcontrollers, proven by running them here, and a test main."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import fx

from isobit.backends.base import BACKENDS, Derived
from isobit.backends.c import device_predictor, device_runner
from isobit.backends.c.emit import HEADER, SOURCE, emit_program, read_description
from isobit.backends.c.floats.calls import refusal
from isobit.backends.c.golden import write_golden_header
from isobit.backends.c.readback.read_back import read_back
from isobit.backends.c.session import LEVELS, CPieces, CSession
from isobit.backends.c.target import NAME, TARGETS
from isobit.backends.c.toolchain import (
    MACHINES,
    TOOLS,
    arm_footprint,
    check_machine,
    compiler_of,
    compiler_version,
    has_arm_compiler,
)
from isobit.backends.device.standalone import standalone, write_predictor
from isobit.backends.device.timing import Contender
from isobit.backends.fixed_point.arithmetic import FixedPointArithmetic
from isobit.backends.fixed_point.lower import float_calls, lower, readers_of_given
from isobit.backends.fixed_point.rules import unsupported
from isobit.pipeline.artifact.digest import RUNNER
from isobit.pipeline.artifact.manifest import PreprocessingEntry
from isobit.pipeline.graph.nodes import quantizer_of, tensor_dtype
from isobit.pipeline.graph.ports import input_names, input_nodes
from isobit.pipeline.proof.arithmetic import Arithmetic, Pieces, Runner
from isobit.pipeline.proof.findings import ReadBack
from isobit.pipeline.samples.network_inputs import Inputs
from isobit.pipeline.stages import Reference
from isobit.pipeline.target import Target

DEVICE = Path(__file__).parent / "device"  # what goes into the artifact as it is


class CBackend:
    """The network as C, the same for every profile; profiles say where it is proven."""

    name = NAME
    profiles = tuple(TARGETS)
    levels = tuple(LEVELS)
    gated_levels = levels
    model_file = SOURCE
    device_needs = "a C compiler"
    firmware = (SOURCE, HEADER)
    packages: tuple[str, ...] = ()
    tools: Mapping[str, tuple[str, ...]] = TOOLS
    probes = False

    def target(self, profile: str) -> Target:
        """The operator table.

        Raises:
            TargetError: this machine cannot compile or run the profile; better said before calibration than after it.
        """
        self.check(profile)
        return TARGETS[profile]

    def check(self, profile: str) -> None:
        check_machine(profile)

    def unsupported(self, graph: fx.GraphModule, target: Target) -> Iterable[tuple[fx.Node, str]]:
        found = list(unsupported(graph, target))
        if found:
            return found
        calls = [(node, refusal(call)) for node, call in float_calls(graph, target)]
        given = [(node, f"C's inputs are codes, and {node.name} reads an input as it is given")
                 for node in readers_of_given(graph, target)]
        unread = [(node, f"nothing computes with the input {name}; leave it out of the model")
                  for node, name in zip(input_nodes(graph), input_names(graph), strict=True)
                  if tensor_dtype(node).is_floating_point
                  and not any(quantizer_of(graph, reader) for reader in node.users)]
        return [*((node, reason) for node, reason in calls if reason), *(given or unread)]

    def emit(self, reference: Reference, folder: Path) -> list[Path]:
        quantized = reference.quantized
        files = emit_program(lower(reference), folder, quantized.captured.name, quantized.target.profile)
        shutil.copytree(DEVICE, folder, dirs_exist_ok=True)
        (folder / RUNNER).write_text(standalone(Path(device_runner.__file__)), encoding="utf-8")
        copied = [folder / path.relative_to(DEVICE) for path in sorted(DEVICE.rglob("*")) if path.is_file()]
        return [*files, *copied, folder / RUNNER]

    def describe(self, folder: Path, preprocessing: PreprocessingEntry) -> None:
        write_predictor(folder, Path(device_predictor.__file__))

    def read_back(self, reference: Reference, folder: Path, preprocessing: PreprocessingEntry | None) -> ReadBack:
        quantized = reference.quantized
        return read_back(lower(reference), folder, quantized.captured.name, quantized.target.profile)

    def derive(self, folder: Path) -> Mapping[str, Derived]:
        return {}

    def arithmetic(self, reference: Reference) -> Arithmetic:
        return FixedPointArithmetic(reference)

    def open(self, folder: Path, level: str) -> Runner:
        return CSession(folder, level)

    def pieces(self, folder: Path) -> Pieces | None:
        emulated = MACHINES[read_description(folder)["profile"]].emulator
        return None if emulated else CPieces(folder, self.levels[0])

    def untimed(self, profile: str) -> str:
        return device_runner.untimed(profile) or "no float network is timed beside C: `isobit bench` times it here"

    def timed(self, folder: Path, sample: Inputs) -> Callable[[], object]:
        raise NotImplementedError("nothing beside C is timed")

    def contender(self, folder: Path, batch: int, threads: int) -> Contender:
        return device_runner.timed(folder, batch, threads)

    def timed_float(self, reference: Reference, sample: Inputs) -> Callable[[], object] | None:
        return None

    def proof_samples(self, folder: Path) -> int | None:
        return MACHINES[read_description(folder)["profile"]].proof_samples

    def finish(self, folder: Path) -> None:
        write_golden_header(folder)

    def integer_ops(self, folder: Path) -> Mapping[str, Any]:
        model = read_description(folder)
        floats = model.get("floats", 0)
        return {"integer": model["computing"], "float": floats, "reasons": {}, "kernels": model["kernels"]}

    def sizes(self, folder: Path) -> Mapping[str, int]:
        """Constants, arena (with DSP instructions or Helium, and in plain C), values in float; with arm-none-eabi-gcc
        also flash, RAM and its stack, of a Cortex-M.
        """
        model = read_description(folder)
        sizes = {"model": model["constants"], "arena": model["arena"], "arena_plain": model["arena_plain"]}
        sizes |= {"values": model["values"]} if "values" in model else {}
        if not has_arm_compiler():
            return sizes
        found = arm_footprint(folder / SOURCE, model["profile"])
        return {**sizes, "flash": found.flash, "ram": found.data + found.stack, "stack": found.stack}

    def versions(self) -> Mapping[str, str]:
        """The compilers: of this machine, and the one that the figures for a Cortex-M come from."""
        profiles = ["generic", *(["cortex-m4"] if has_arm_compiler() else [])]
        return {profile: compiler_version(compiler_of(profile)) for profile in profiles}


BACKENDS.register(NAME)(CBackend())
