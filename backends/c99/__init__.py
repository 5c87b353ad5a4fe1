"""Portable C99: `model.c` and `model.h` for microcontrollers, proven by running them here, and a test main."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import fx

from backends.base import BACKENDS
from backends.c99 import device_runner
from backends.c99.emit import DESCRIPTION, SOURCE, emit_program
from backends.c99.golden import write_golden_header
from backends.c99.session import LEVELS, CSession
from backends.c99.target import NAME, PROFILE, TARGET
from backends.c99.toolchain import compiler_version, cortex_m4_footprint, has_arm_compiler, host_compiler
from backends.fixed_point.arithmetic import FixedPointArithmetic
from backends.fixed_point.lower import lower
from backends.fixed_point.rules import unsupported
from pipeline.parity import Arithmetic, Runner
from pipeline.stages import Reference
from pipeline.target import Target

DEVICE = Path(__file__).parent / "device"  # what goes into the artifact as it is


class CBackend:
    """The network as C, compiled here by whatever compiler there is."""

    name = NAME
    profiles = (PROFILE,)
    levels = tuple(LEVELS)
    gated_levels = levels
    model_file = SOURCE
    device_needs = "a C compiler"

    def target(self, profile: str) -> Target:
        return TARGET

    def unsupported(self, graph: fx.GraphModule) -> Iterable[tuple[fx.Node, str]]:
        host_compiler()  # without one nothing can be proven: better said before hours of calibration than behind them
        return unsupported(graph, TARGET)

    def emit(self, reference: Reference, folder: Path) -> list[Path]:
        files = emit_program(lower(reference), folder, reference.quantized.captured.name)
        shutil.copytree(DEVICE, folder, dirs_exist_ok=True)
        shutil.copyfile(device_runner.__file__, folder / "run.py")
        copied = [folder / path.relative_to(DEVICE) for path in sorted(DEVICE.rglob("*")) if path.is_file()]
        return [*files, *copied, folder / "run.py"]

    def arithmetic(self, reference: Reference) -> Arithmetic:
        return FixedPointArithmetic(reference)

    def open(self, folder: Path, level: str) -> Runner:
        return CSession(folder, level)

    def proof_samples(self, folder: Path) -> int | None:
        return None

    def finish(self, folder: Path) -> None:
        write_golden_header(folder)

    def integer_ops(self, folder: Path) -> Mapping[str, Any]:
        model = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        return {"integer": model["computing"], "float": 0, "reasons": {}, "kernels": model["kernels"]}

    def sizes(self, folder: Path) -> Mapping[str, int]:
        """Constants and arena; with arm-none-eabi-gcc also flash, RAM and the stack within it, of a Cortex-M4."""
        model = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        sizes = {"model": model["constants"], "arena": model["arena"]}
        if not has_arm_compiler():
            return sizes
        found = cortex_m4_footprint(folder / SOURCE)
        return {**sizes, "flash": found.flash, "ram": found.data + found.stack, "stack": found.stack}

    def versions(self) -> Mapping[str, str]:
        return {"compiler": compiler_version(host_compiler())}


BACKENDS.register(NAME)(CBackend())
