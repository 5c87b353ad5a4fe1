"""From a program to a shared library for a device: build, link, without symbols."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from isobit.backends.fixed_point.program import Program
from isobit.backends.tvm.device.toolchain import compiler
from isobit.backends.tvm.module import ModuleBuilder
from isobit.backends.tvm.profiles import DeviceProfile

# No debug symbols; the same program gives the same bytes, so nothing of this machine may enter.
_LINK = ("-shared", "-fPIC", "-s", "-Wl,--build-id=none")


def write_module(builder: ModuleBuilder, profile: DeviceProfile, path: Path) -> None:
    """Compile a program for a device and link it into `path`.

    Args:
        builder: with the flavour of the profile.
        profile: of the device.
        path: of the shared library.

    Raises:
        TargetError: the compiler that links is not installed.
    """
    from tvm.support import cc

    linker = cc.cross_compiler(compiler(profile), options=list(_LINK), output_format="so")
    executable(builder, profile).export_library(str(path), fcompile=linker)


def executable(builder: ModuleBuilder, profile: DeviceProfile) -> Any:
    """The compiled Relax module."""
    import tvm
    from tvm import relax

    target = tvm.target.Target(profile.llvm_target())
    pipeline: Any = relax.backend.cpu_generic.get_default_pipeline(target)
    # Every shape is a constant of the module and checked at its entry; asserts in each kernel are a fifth of the code.
    with tvm.transform.PassContext(opt_level=3, config={"tirx.disable_assert": True}):
        return relax.build(builder.build(), target, relax_pipeline=pipeline)


def module_builder(program: Program, profile: DeviceProfile) -> ModuleBuilder:
    """The program's kernels in the instruction set of a profile."""
    return ModuleBuilder(program, profile.flavour)
