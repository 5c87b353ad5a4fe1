"""What compiles the files and what runs them: this machine's own C compiler, or a cross compiler and an emulator."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from isobit.pipeline.errors import TargetError

STANDARD = ("-std=c99", "-Wall", "-Wextra")
_HOST = ("cc", "gcc", "clang")
_ARM, _ARM_SIZE = "arm-none-eabi-gcc", "arm-none-eabi-size"
_ARM_EMULATOR = "qemu-system-arm"
TOOLS = MappingProxyType({
    "C compiler": _HOST, "Arm Cortex-M compiler": (_ARM,), "Arm Cortex-M emulator": (_ARM_EMULATOR,),
})


@dataclass(frozen=True)
class Machine:
    """A device profile.

    Args:
        compiler: command and options of its processor; empty for this machine's own compiler.
        board: what is linked into a program besides, files of the artifact included.
        emulator: command that runs a program; empty where it runs as it is.
        packages: Debian's names of all that.
        proof_samples: how many samples it is proven on; None for all.
    """

    compiler: tuple[str, ...] = ()
    board: tuple[str, ...] = ()
    emulator: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    proof_samples: int | None = None


def _emulated(processor: tuple[str, ...], board: str, script: str) -> Machine:
    """A Cortex-M; the board only lends processor and memory: nothing of it is in model.c."""
    return Machine(
        compiler=(_ARM, *processor, "-mthumb"),
        board=("--specs=rdimon.specs", "-nostartfiles", "-T", script, "cortex_m4/startup.c"),
        emulator=(_ARM_EMULATOR, "-M", board, "-nographic", "-monitor", "none", "-semihosting", "-kernel"),
        packages=("gcc-arm-none-eabi", "libnewlib-arm-none-eabi", "qemu-system-arm"),
        proof_samples=32,
    )


MACHINES = {
    "generic": Machine(),
    "cortex-m4": _emulated(("-mcpu=cortex-m4",), "mps2-an386", "cortex_m4/mps2_an386.ld"),
    # gcc leaves Helium out where numbers are passed in integer registers.
    "cortex-m55": _emulated(("-mcpu=cortex-m55", "-mfloat-abi=hard"), "mps3-an547", "cortex_m55/mps3_an547.ld"),
}


@dataclass(frozen=True)
class Footprint:
    """What `model.c` takes on a Cortex-M4, in bytes.

    Args:
        flash: code and constants; of the compiler's own library what multiplies floats comes on top.
        data: static variables: the arena.
        stack: the frames of all functions together, as the compiler reports them: a run needs no more.
    """

    flash: int
    data: int
    stack: int


def check_machine(profile: str) -> None:
    """Raises TargetError where the profile's files could not be compiled or run here; names what to install."""
    machine = MACHINES[profile]
    if not machine.compiler:
        host_compiler()
    missing = [command[0] for command in (machine.compiler, machine.emulator)
               if command and shutil.which(command[0]) is None]
    if missing:
        raise TargetError(
            f"the profile '{profile}' is proven by cross-compiling and emulating it: {' and '.join(missing)} not found",
            where="PATH", field="options.profile",
            hint=f"Debian: apt install {' '.join(machine.packages)}; or `options.profile=generic`",
        )


def compiler_of(profile: str) -> list[str]:
    """Command of the profile's compiler; raises TargetError where this machine has none."""
    return list(MACHINES[profile].compiler) or host_compiler()


def host_compiler() -> list[str]:
    """Command of this machine's C compiler: the environment's `CC`, else the first of cc, gcc and clang.

    Raises:
        TargetError: there is none.
    """
    chosen = shlex.split(os.environ.get("CC", ""))
    found = next((command for command in ([chosen] if chosen else [[name] for name in _HOST])
                  if shutil.which(command[0])), None)
    if found is None:
        raise TargetError(
            "target 'c' proves its files by compiling and running them here, and there is no C compiler",
            where=f"CC={os.environ['CC']}" if chosen else "PATH", allowed=", ".join(_HOST),
            hint="install one (Debian: apt install gcc libc6-dev), or set CC", field="target",
        )
    return found


def compiler_version(command: Sequence[str]) -> str:
    """The first line of what the compiler says about itself."""
    told = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False).stdout
    return told.splitlines()[0] if told else "unknown"


def compile_c(command: Sequence[str], folder: Path) -> None:
    """Run a compiler in `folder`; raises TargetError with its first complaint."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        complaints = [line for line in done.stderr.splitlines() if "error" in line or "overflowed" in line]
        raise TargetError(
            f"the C compiler refuses the files of the artifact: {(complaints or [done.stderr.strip()])[0]}",
            where=shlex.join(command),
        )


def has_arm_compiler() -> bool:
    """Flash and RAM of a Cortex-M can be measured here."""
    return shutil.which(_ARM) is not None and shutil.which(_ARM_SIZE) is not None


def arm_footprint(source: Path, profile: str) -> Footprint:
    """Compile `model.c` with -O2 for the profile's processor and read off what it takes; needs `has_arm_compiler()`.

    Of the profile `generic`, which names no processor, it is what a Cortex-M4 takes.
    """
    command = [*(MACHINES[profile].compiler or MACHINES["cortex-m4"].compiler), *STANDARD, "-O2", "-fstack-usage", "-c"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        compile_c([*command, str(source.resolve()), "-o", "model.o"], folder)
        told = subprocess.run([_ARM_SIZE, "model.o"], cwd=folder, capture_output=True, text=True, check=True).stdout
        text, data, bss = map(int, told.splitlines()[1].split()[:3])
        frames = (folder / "model.su").read_text(encoding="utf-8").splitlines()
        return Footprint(text + data, data + bss, sum(int(frame.split("\t")[1]) for frame in frames))
