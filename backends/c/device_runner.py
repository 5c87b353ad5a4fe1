"""Replays this artifact's golden vectors on the machine at hand: hashes, every quantized tensor, logits, the latency.

Needs a C compiler and no package: copy the folder and run `python run.py`. With --cortex-m4 or --cortex-m55 it is
cross-compiled and run on such a processor, emulated (Debian: apt install gcc-arm-none-eabi libnewlib-arm-none-eabi
qemu-system-arm).
With --bench it says what an inference takes.
Prints PASS or FAIL as its last line and exits with 0 or 1, or with 2 where it cannot check. Runs on Python 3.8 and
newer, so keep its syntax old.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from isobit.backends.device.replay import (
    CannotCheck,
    add_options,
    broken_files,
    check_files,
    print_latency,
    read_manifest,
    show_bench,
    unsigned,
    verdict,
)
from isobit.backends.device.timing import Contender, repeated
from isobit.pipeline.artifact.digest import RUNNER

SOURCE, HEADER, DESCRIPTION = "model.c", "model.h", "model.json"
TEST, VECTORS, NUMBERS = "main_test.c", "golden.h", "golden.npz"
START, SECTIONS = "cortex_m4/startup.c", "cortex_m4/sections.ld"
# Options of the processor, its emulated board, where that has memory.
BOARDS = {
    "cortex-m4": ("-mcpu=cortex-m4", "mps2-an386", "cortex_m4/mps2_an386.ld"),
    "cortex-m55": ("-mcpu=cortex-m55 -mfloat-abi=hard", "mps3-an547", "cortex_m55/mps3_an547.ld"),
}
MEMORIES = tuple(memory for _, _, memory in BOARDS.values())
# What is on the device.
FILES = (SOURCE, HEADER, DESCRIPTION, TEST, VECTORS, NUMBERS, RUNNER, START, SECTIONS, *MEMORIES)
CROSS = "arm-none-eabi-gcc -mthumb --specs=rdimon.specs -nostartfiles"
EMULATOR = "qemu-system-arm -nographic -monitor none -semihosting -M"
OPTIONS = ["-std=c99", "-O2", "-Wall", "-Wextra"]
NOT_THERE = "the portable C on this machine, from codes; not the microcontroller"  # of a time
TIMEOUT = 600  # seconds; an emulated network is slow, a hung one is slower


def compiler() -> list[str]:
    """The command in CC, else the first C compiler that there is."""
    commands = [shlex.split(os.environ["CC"])] if os.environ.get("CC") else [["cc"], ["gcc"], ["clang"]]
    for command in commands:
        if shutil.which(command[0]):
            return command
    raise FileNotFoundError("no C compiler: install one (Debian: apt install gcc libc6-dev), or set CC")


def checked(command: list[str], folder: Path) -> None:
    """Run a compiler; its complaints are the error."""
    if shutil.which(command[0]) is None:
        raise FileNotFoundError(command[0] + " is not installed")
    done = subprocess.run(command, cwd=str(folder), stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())


def shortened(lines: list[str], names: list[str]) -> list[str]:
    """One line for each tensor in place of one for each of its samples that differ; in the order of `names`."""
    samples, others = {}, []
    for line in lines:
        found = re.fullmatch(r"sample (\d+): (.* differs?)", line)
        if found:
            samples.setdefault(found[2], []).append(found[1])
        else:
            others.append(line)
    order = {name + " differs": place for place, name in enumerate(names)}
    first = sorted(samples, key=lambda said: order.get(said, len(order)))
    return [f"{said} in {len(samples[said])} samples, first in sample {samples[said][0]}" if len(samples[said]) > 1 else
            f"{said} in sample {samples[said][0]}" for said in first] + others


def replay(folder: Path, build: Path, board: str | None, samples: int | None, model: dict) -> list[str]:
    """Build main_test.c and run it, here or on a key of `BOARDS`; what it said unless it passed, having compared all
    tensors of each sample.
    """
    program = str(build / "main_test")
    limit = [] if samples is None else [f"-DGOLDEN_SAMPLES={samples}"]
    if board:
        processor, name, memory = BOARDS[board]
        cross = [*shlex.split(CROSS), *shlex.split(processor)]
        checked([*cross, *OPTIONS, *limit, "-T", memory, START, TEST, "-o", program, "-lm"], folder)
        command = [*shlex.split(EMULATOR), name, "-kernel", program]
        if shutil.which(command[0]) is None:
            raise FileNotFoundError(command[0] + " is not installed")
    else:
        checked([*compiler(), *OPTIONS, *limit, TEST, "-o", program, "-lm"], folder)
        command = [program]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=TIMEOUT)
    lines = done.stdout.split("\n")
    names = [model["tensors"][number]["name"] for number in model["order"]]
    print("\n".join(shortened([line for line in lines if line and line not in ("PASS", "FAIL")], names)))
    if done.returncode or "PASS" not in lines:
        return [f"the test program failed (exit status {done.returncode})"]
    counts = re.search(r"^samples: (\d+), tensors compared: (\d+),", done.stdout, re.MULTILINE)
    replayed, compared = map(int, counts.groups()) if counts else (0, 0)
    tensors = sum(tensor["quantized"] for tensor in model["tensors"])
    whole = replayed == (samples or replayed) and compared == replayed * tensors > 0
    return [] if whole else [f"{VECTORS} does not hold the quantized tensors of this network"]


def one_run(folder: Path, build: Path, model: dict) -> Callable[[], object]:
    """One run on one thread of random inputs, compiled with -O2."""
    library = str(build / "model.so")
    checked([*compiler(), *OPTIONS, "-fPIC", "-shared", SOURCE, "-o", library, "-lm"], folder)
    run = getattr(ctypes.CDLL(library), model["name"] + "_run")
    inputs = random_codes(model)
    logits = ctypes.create_string_buffer(4 * logit_count(model))
    return lambda: run(*inputs, logits)


def random_codes(model: dict) -> list:
    """Seeded inputs: codes of all values; of int32, which may be places in a table, 0 and 1."""
    numbers, inputs = random.Random(0), []
    for tensor, size in zip(model["tensors"], input_sizes(model)):  # noqa: B905 (Python 3.8)
        if tensor.get("integers"):
            inputs.append((ctypes.c_int32 * (size // 4))(*(numbers.randrange(2) for _ in range(size // 4))))
        else:
            inputs.append(ctypes.create_string_buffer(numbers.getrandbits(8 * size).to_bytes(size, "little"), size))
    return inputs


def untimed(profile: str) -> str:
    """Why a time of this machine says nothing of a profile's devices; empty where it does."""
    return f"it is made for {profile}: measure a run in the firmware" if profile in BOARDS else ""


def timed(folder: Path, batch: int, threads: int) -> Contender:
    """The artifact for `isobit bench`, a batch one sample after the other; raises ValueError where it is damaged,
    CannotCheck where it does not run here.
    """
    if elsewhere := untimed(check_files(folder, FILES)["target"]["profile"]):
        raise CannotCheck(elsewhere)
    if threads != 1:
        raise CannotCheck("the C of an artifact runs on one thread: give --threads 1")
    model = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as build:
        try:
            run = one_run(folder, Path(build), model)
        except (FileNotFoundError, RuntimeError) as error:  # no compiler, or one that refuses
            raise CannotCheck(str(error)) from error
    return Contender(" ".join([*compiler(), "-O2"]), repeated(run, batch), NOT_THERE)


def positive(text: str) -> int:
    """A count of at least one; raises ValueError, which is a complaint on the command line."""
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def input_sizes(model: dict) -> list[int]:
    """Bytes of each input: codes, or int32."""
    sizes = []
    for tensor in model["tensors"][:len(model.get("input_names", [0]))]:
        height, width, channels = tensor["shape"]
        sizes.append(height * width * channels * (4 if tensor.get("integers") else 1))
    return sizes


def logit_count(model: dict) -> int:
    """How many logits a run writes."""
    count = 1
    for size in model["logits"]:
        count *= size
    return count


def check(folder: Path, board: str | None, samples: int | None, seconds: float) -> list[str]:
    """What is not as it was built; the latency is measured for `seconds` where the program runs on this machine."""
    problems = broken_files(folder, read_manifest(folder), FILES)
    if problems:
        return problems
    model = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as build:
        problems = replay(folder, Path(build), board, samples, model)
        if not problems and not board:
            print_latency(one_run(folder, Path(build), model), seconds, "; " + NOT_THERE)
    return problems


def main() -> int:
    """Check, replay, time; 0 where everything is as it was built, 1 where not, 2 where that cannot be said."""
    parser = argparse.ArgumentParser(description="replay the golden vectors of this artifact")
    parser.add_argument("--samples", type=positive, metavar="N", help="replay so many only")
    instead = add_options(parser)
    for board, (_, name, _) in BOARDS.items():
        instead.add_argument("--" + board, action="store_const", const=board, dest="board", help=f"emulated ({name})")
    given = parser.parse_args()
    folder = Path(__file__).resolve().parent
    return verdict(lambda: unsigned(folder, given.require_signature) or (
        show_bench(folder, timed, given.seconds) if given.bench else
        check(folder, given.board, given.samples, given.seconds)), checks=not given.bench)


if __name__ == "__main__":
    sys.exit(main())
