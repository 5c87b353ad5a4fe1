"""The compilers that a machine has: one for itself, without which nothing can be proven, and one for Cortex-M4."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import TargetError

STANDARD = ("-std=c99", "-Wall", "-Wextra")
_HOST = ("cc", "gcc", "clang")
_ARM, _ARM_SIZE = "arm-none-eabi-gcc", "arm-none-eabi-size"
CORTEX_M4 = ("-mcpu=cortex-m4", "-mthumb", "-O2")


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
            hint="install one (Debian: apt install gcc libc6-dev), or set CC",
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
        complaint = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[:300])
        raise TargetError(f"the C compiler refuses the files of the artifact: {complaint}", where=shlex.join(command))


def has_arm_compiler() -> bool:
    """Flash and RAM of a Cortex-M4 can be measured here."""
    return shutil.which(_ARM) is not None and shutil.which(_ARM_SIZE) is not None


def cortex_m4_footprint(source: Path) -> Footprint:
    """Compile `model.c` for Cortex-M4 and read off what it takes; needs `has_arm_compiler()`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        compile_c([_ARM, *STANDARD, *CORTEX_M4, "-fstack-usage", "-c", str(source.resolve()), "-o", "model.o"], folder)
        told = subprocess.run([_ARM_SIZE, "model.o"], cwd=folder, capture_output=True, text=True, check=True).stdout
        text, data, bss = map(int, told.splitlines()[1].split()[:3])
        frames = (folder / "model.su").read_text(encoding="utf-8").splitlines()
        return Footprint(text + data, data + bss, sum(int(frame.split("\t")[1]) for frame in frames))
