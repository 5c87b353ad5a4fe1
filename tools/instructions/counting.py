"""Instructions of a run of an artifact's `model.c`, counted on an emulated Cortex-M."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from isobit.backends.c.device_runner import DESCRIPTION, HEADER, SOURCE
from isobit.backends.c.toolchain import MACHINES, STANDARD, check_machine, compile_c
from isobit.pipeline.errors import ParityError

MAIN = Path(__file__).with_name("count.c")
MACHINE, HELIUM = "cortex-m4", "cortex-m55"
NO_HELIUM = ("-mcpu=cortex-m55+nomve",)
PLAIN = ("-U__ARM_FEATURE_DSP",)  # the C that other processors compile, for this one
SHIFT = 7  # of `-icount`: an instruction takes 2^7 ns, more than a tick, so that no two counts read alike
ENDS = "the end of a run"


@dataclass(frozen=True)
class Timer:
    """A board's.

    Args:
        ticks: an instruction, at its frequency.
        options: what count.c must know of it.
    """

    ticks: float
    options: tuple[str, ...] = ()


TIMERS = MappingProxyType({MACHINE: Timer(3.2), HELIUM: Timer(4.096, ("-DCOUNTED_UPWARDS",))})


def count(folder: Path, options: Sequence[str] = (), machine: str = MACHINE) -> int:
    """Instructions of one run: what two runs on the same codes take more than one.

    Args:
        folder: of an artifact with one input of codes.
        options: of the compiler, besides those of the processor.
        machine: profile of the processor, one of `TIMERS`.

    Raises:
        ParityError: three runs do not take as much again.
    """
    runs = [_counted(folder, [*options, f"-DCOUNTED_RUNS={runs}"], [SOURCE], machine)[0] for runs in (1, 2, 3)]
    first, second = runs[1] - runs[0], runs[2] - runs[1]
    if first != second:
        raise ParityError(f"a second run takes {first:,} instructions and a third {second:,}", where=str(folder),
                          hint="the emulator's clock does not follow its instructions: see tools/instructions/count.c")
    return first


def count_steps(folder: Path, options: Sequence[str] = (), machine: str = MACHINE) -> Mapping[str, int]:
    """Instructions up to each traced tensor from the one before, by the tensor's name; see `count`."""
    model = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    names = [model["tensors"][number]["name"] for number in model["order"]]
    found = _counted(folder, [*options, "-DCOUNTED_RUNS=1", f"-DCOUNT_STEPS={len(names)}"], [], machine)
    return dict(zip((*names, ENDS), found, strict=True))


def instructions(ticks: int, machine: str = MACHINE) -> int:
    """How many instructions lie between two readings of a machine's timer that differ so much."""
    return round(ticks / TIMERS[machine].ticks)


def _counted(folder: Path, options: Sequence[str], sources: Sequence[str], profile: str) -> list[int]:
    """What the board's timer says, in instructions, without what reading it takes."""
    check_machine(profile)
    machine, folder = MACHINES[profile], folder.resolve()
    with tempfile.TemporaryDirectory() as name:
        program = Path(name) / "count"
        command = [*machine.compiler, *STANDARD, *options, *TIMERS[profile].options, *_macros(folder), "-I.", str(MAIN)]
        compile_c([*command, *sources, *machine.board, "-o", str(program), "-lm"], folder)
        *emulator, kernel = machine.emulator
        clock = f"shift={SHIFT},sleep=off"
        done = subprocess.run([*emulator, "-icount", clock, kernel, str(program)], capture_output=True, text=True,
                              check=False)
    if done.returncode:
        raise ParityError(f"the program that counts ends with exit status {done.returncode}", where=str(folder),
                          hint=done.stderr.strip()[:300])
    nothing, *ticks = map(int, done.stdout.split())
    return [instructions(each, profile) - instructions(nothing, profile) for each in ticks]


def _macros(folder: Path) -> list[str]:
    """What the program must know of the network."""
    name = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))["name"]
    found = dict(re.findall(r"#define (\w+) (-?\d+)\b", (folder / HEADER).read_text(encoding="utf-8")))
    values = {"CODES": found[f"{name.upper()}_INPUT_BYTES"], "LOGITS": found[f"{name.upper()}_LOGITS"],
              "RUN": f"{name}_run"}
    return [f"-DCOUNTED_{key}={value}" for key, value in values.items()]
