"""From a program to a shared library: build, export, strip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backends.fixed_point.program import Program
from backends.tvm_int8.module import ModuleBuilder
from backends.tvm_int8.profiles import DeviceProfile


def compile_program(program: Program, profile: DeviceProfile) -> Any:
    """The executable of a program for a device."""
    import tvm
    from tvm import relax

    target = tvm.target.Target(profile.llvm_target())
    module = ModuleBuilder(program, profile.flavour).build()
    # Shapes are fixed and `device.json` states them; asserts in every kernel cost a fifth of the library.
    with tvm.transform.PassContext(opt_level=3, config={"tirx.disable_assert": True}):
        return relax.build(module, target, relax_pipeline=relax.backend.cpu_generic.get_default_pipeline(target))


def export(executable: Any, path: Path, profile: DeviceProfile) -> None:
    """Link `executable` into a shared library."""
    executable.export_library(str(path))
