"""TVM modules: integer kernels for x86 and Arm from our own templates, and what a device needs beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import fx

from isobit.backends.base import BACKENDS, Derived
from isobit.backends.device.standalone import write_predictor
from isobit.backends.device.timing import Contender
from isobit.backends.fixed_point.arithmetic import FixedPointArithmetic
from isobit.backends.fixed_point.lower import float_calls, lower
from isobit.backends.fixed_point.rules import integer_target, unsupported
from isobit.backends.tvm import profiles
from isobit.backends.tvm.device import device_predictor, device_runner, toolchain
from isobit.backends.tvm.device.device_runner import MODEL, read_device
from isobit.backends.tvm.device.emulated import EmulatedSession, emulated_samples
from isobit.backends.tvm.readback.read_back import read_back
from isobit.backends.tvm.session import NativePieces, NativeSession
from isobit.pipeline.artifact.manifest import PreprocessingEntry, package_versions
from isobit.pipeline.proof.arithmetic import Arithmetic, Pieces, Runner
from isobit.pipeline.proof.findings import ReadBack
from isobit.pipeline.samples.network_inputs import Inputs
from isobit.pipeline.stages import Reference
from isobit.pipeline.target import Target

NAME = "tvm"
_BORDER = ("quantize", "finish", "leave_float")  # none computes: they bring values in and out
_FLOAT = "float"


class TvmBackend:
    """`model.so`, a Relax executable whose kernels compute in integers only, for TVM's runtime."""

    name = NAME
    profiles = profiles.NAMES
    levels: tuple[str, ...] = ("compiled",)  # a module is compiled once: a session optimises nothing
    gated_levels: tuple[str, ...] = levels
    model_file = MODEL
    device_needs = "apache-tvm-ffi and numpy (nothing for the C++ loader)"
    firmware: tuple[str, ...] = ()
    packages = ("apache-tvm", "apache-tvm-ffi")
    tools: Mapping[str, tuple[str, ...]] = toolchain.TOOLS
    probes = True

    def target(self, profile: str) -> Target:
        """The operator table; `native` becomes the profile of this machine.

        Raises:
            TargetError: this machine cannot build or prove the profile; the message names the missing package.
        """
        chosen = profiles.resolve(profile)
        toolchain.check(chosen)
        return integer_target(NAME, chosen.name, profiles.NOTES.get(chosen.flavour, ()), float_operators="after_layers",
                              depthwise_bits=profiles.DEPTHWISE_BITS.get(chosen.flavour))

    def check(self, profile: str) -> None:
        toolchain.check_tools(profiles.resolve(profile))

    def unsupported(self, graph: fx.GraphModule, target: Target) -> Iterable[tuple[fx.Node, str]]:
        from isobit.backends.tvm.floats import refusal

        found = list(unsupported(graph, target))
        if found:
            return found
        calls = [(node, refusal(call)) for node, call in float_calls(graph, target)]
        return [(node, reason) for node, reason in calls if reason]

    def emit(self, reference: Reference, folder: Path) -> list[Path]:
        from isobit.backends.tvm.build import module_builder, write_module
        from isobit.backends.tvm.device.device_files import write_device_files

        program, profile = lower(reference), profiles.PROFILES[reference.quantized.target.profile]
        builder = module_builder(program, profile)
        write_module(builder, profile, folder / self.model_file)
        files = write_device_files(
            folder, profile, program, builder.traced, builder.kernel_counts(), builder.followed)
        return [folder / self.model_file, *files]

    def describe(self, folder: Path, preprocessing: PreprocessingEntry) -> None:
        write_predictor(folder, Path(device_predictor.__file__))

    def read_back(self, reference: Reference, folder: Path, preprocessing: PreprocessingEntry | None) -> ReadBack:
        profile = profiles.PROFILES[reference.quantized.target.profile]
        return read_back(lower(reference), folder, profile)

    def derive(self, folder: Path) -> Mapping[str, Derived]:
        return {}

    def arithmetic(self, reference: Reference) -> Arithmetic:
        return FixedPointArithmetic(reference)

    def open(self, folder: Path, level: str) -> Runner:
        command = _emulation(folder)
        return EmulatedSession(folder, command) if command else NativeSession(folder)

    def pieces(self, folder: Path) -> Pieces | None:
        return None if _emulation(folder) else NativePieces(folder)

    def untimed(self, profile: str) -> str:
        chosen = profiles.PROFILES[profile]
        machine = chosen.machine.name
        return device_runner.untimed(machine, chosen.features, profiles.profiles_of(machine))

    def timed(self, folder: Path, sample: Inputs) -> Callable[[], object]:
        return NativeSession(folder, taps=False).one_run(sample)

    def contender(self, folder: Path, batch: int, threads: int) -> Contender:
        with suppress(ImportError):  # where a compiler is, it must be its runtime that is loaded: see `NativeSession`
            import tvm  # noqa: F401
        return device_runner.timed(folder, batch, threads)

    def timed_float(self, reference: Reference, sample: Inputs) -> Callable[[], object] | None:
        return None  # its plain kernels for float are no yardstick

    def proof_samples(self, folder: Path) -> int | None:
        return emulated_samples(read_device(folder)["multiply_accumulates"]) if _emulation(folder) else None

    def finish(self, folder: Path) -> None:
        return

    def integer_ops(self, folder: Path) -> Mapping[str, Any]:
        kernels = read_device(folder)["kernels"]
        integer = sum(count for name, count in kernels.items() if name not in _BORDER)
        floats = kernels.get(_FLOAT, 0)
        return {"integer": integer - floats, "float": floats, "reasons": {}, "kernels": kernels}

    def sizes(self, folder: Path) -> Mapping[str, int]:
        libraries = sum(path.stat().st_size for path in (folder / "lib").iterdir())
        return {"model": (folder / self.model_file).stat().st_size, "runtime": libraries}

    def versions(self) -> Mapping[str, str]:
        return package_versions("apache-tvm", "apache-tvm-ffi")


def _emulation(folder: Path) -> tuple[str, ...]:
    """The emulator's command line for an artifact; empty where its processor is this one."""
    return toolchain.emulation(profiles.PROFILES[read_device(folder)["profile"]])


BACKENDS.register(NAME)(TvmBackend())
