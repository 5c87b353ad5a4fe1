"""Replays this artifact's golden inputs on the device at hand: hashes, every integer code, the logits, the latency.

Needs numpy and apache-tvm-ffi (which brings no compiler) and nothing else: copy the folder to the device and run
`python run.py`. Prints PASS or FAIL as its last line and exits with 0 or 1, or with 2 where it cannot check. Runs on
Python 3.8 and newer.
With --probe it runs each layer by itself instead, on codes that bring its kernel to its ends, and names those that are
wrong; with --bench it says what an inference takes.

For a device without Python: `python run.py --write-input input.bin` here, `./loader trace model.so input.bin
output.bin` there, `python run.py --check output.bin` here again.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from isobit.backends.device.golden import (
    CODE,
    GOLDEN,
    NEAR,
    compare_golden,
    golden_inputs,
    logit_differences,
    port_names,
    read_golden,
    split_outputs,
)
from isobit.backends.device.inputs import random_inputs
from isobit.backends.device.probe import PROBE, probe_problems, read_probe
from isobit.backends.device.processor import read_cpuinfo, this_machine, why_not
from isobit.backends.device.replay import (
    ON_DEVICE,
    CannotCheck,
    add_options,
    broken_files,
    check_files,
    need_probe,
    print_latency,
    read_manifest,
    show_bench,
    unsigned,
    verdict,
)
from isobit.backends.device.timing import Contender
from isobit.backends.tvm.device.device_threads import MOST_THREADS, use_threads
from isobit.pipeline.artifact.digest import RUNNER

MODEL = "model.so"
DEVICE = "device.json"
FFI = "apache-tvm-ffi"
HEADER, SOURCE, LOADER = "device.h", "loader.cc", "loader"
LIBRARIES = ("libtvm_runtime.so", "libtvm_ffi.so")
FOLDER = "lib"
# What is on the device; beside the libraries lie their licenses, which nothing reads.
FILES = (MODEL, DEVICE, HEADER, RUNNER, SOURCE, LOADER, GOLDEN, *(FOLDER + "/" + name for name in LIBRARIES))


def read_device(folder: Path) -> dict[str, Any]:
    """The facts of device.json."""
    return json.loads((folder / DEVICE).read_text(encoding="utf-8"))


def other_processor(machine: str, required: Iterable[str], profiles: Mapping[str, Sequence[str]]) -> str:
    """Why the processor at hand cannot run a module; see `why_not`."""
    return why_not(machine, required, profiles, this_machine(), read_cpuinfo())


def untimed(machine: str, required: Iterable[str], profiles: Mapping[str, Sequence[str]]) -> str:
    """Why a time of this machine says nothing of a module; empty where the module runs here."""
    reason = other_processor(machine, required, profiles)
    return reason + "; " + ON_DEVICE if reason else ""


def why_not_here(device: dict[str, Any]) -> str:
    """Why this processor, or this Python environment, cannot run the module; empty where it can."""
    reason = other_processor(device["machine"], device["cpu_features"], device["profiles"])
    wanted = device["packages"][FFI]
    try:
        installed = metadata.version(FFI)
    except metadata.PackageNotFoundError:
        installed = "missing"
    if not reason and installed.split(".post")[0] != wanted.split(".post")[0]:
        reason = f"this module needs {FFI} {wanted}, and here it is {installed}: pip install {FFI}=={wanted}"
    return reason


def open_module(folder: Path, threads: int = 1) -> Any:
    """The module's functions by name, as `open_module(folder)["main"]`; they take and return tensors of tvm_ffi.

    Any number of artifacts may be open in one process, and a folder that was built anew gives its new module. The last
    number of threads that was given holds for all of them: see `use_threads`.
    """
    import tvm_ffi

    load_runtime(folder)
    use_threads(threads)
    with tempfile.TemporaryDirectory() as place:  # for a path that it knows the system gives what was there before
        link = Path(place) / MODEL
        link.symlink_to((folder / MODEL).resolve())
        machine = tvm_ffi.load_module(str(link))["vm_load_executable"]()
    cpu, index, pooled = 1, 0, 2
    machine["vm_initialization"](cpu, index, pooled)
    return machine


def load_runtime(folder: Path) -> None:
    """Load the artifact's runtime library where none is in this process yet: a second one would end the process."""
    runtime = LIBRARIES[0]
    try:
        ctypes.CDLL(runtime, ctypes.RTLD_GLOBAL | os.RTLD_NOLOAD)  # without a folder: whatever has this name
    except OSError:
        ctypes.CDLL(str(folder / FOLDER / runtime), ctypes.RTLD_GLOBAL)


def to_tensor(values: np.ndarray) -> Any:
    """A tensor of tvm_ffi with a copy of the values: read-only arrays have no other way there."""
    import tvm_ffi

    return tvm_ffi.from_dlpack(np.array(values))


def described_inputs(device: dict[str, Any]) -> list[dict[str, Any]]:
    """What `main` reads (`input`) and what `codes` reads (`codes`), of each input in order."""
    return device.get("inputs", [device])


def samples_of(arrays: Sequence[np.ndarray], device: dict[str, Any]) -> list[list[Any]]:
    """The arguments of `main` for each sample, of every input [N, ...] in order; of `follow`, its codes as well."""
    kinds = [entry["input"]["dtype"] for entry in described_inputs(device)] + ["uint8"] * len(device.get("follow", []))
    ready = [np.asarray(array, kind) for array, kind in zip(arrays, kinds)]  # noqa: B905 (Python 3.8)
    return [[to_tensor(array[i : i + 1]) for array in ready] for i in range(len(ready[0]))]


def trace(
    function: Callable[..., Any], arrays: Sequence[np.ndarray], device: dict[str, Any]
) -> dict[str, np.ndarray]:
    """Codes by name in the graph's shapes, and every output, of all inputs [N, ...], one sample after the other."""
    rows = [[np.from_dlpack(tensor) for tensor in function(*sample)] for sample in samples_of(arrays, device)]
    return named([np.concatenate(column) for column in zip(*rows)], device)  # noqa: B905 (Python 3.8)


def named(columns: list[np.ndarray], device: dict[str, Any]) -> dict[str, np.ndarray]:
    """What `trace` gives for N samples, by name and in the graph's shapes.

    Args:
        columns: uint8 [N, height, width, channels] of each quantized tensor in the order of device.json; the logits.
    """
    results = {}
    for entry, codes in zip(device["trace"], columns):  # noqa: B905 (the logits are left)
        codes = codes if entry.get("in_order") else codes.transpose(0, 3, 1, 2)
        results[entry["name"]] = codes.reshape([len(codes)] + entry["shape"])
    results.update(split_outputs(columns[-1].reshape([len(columns[-1])] + device["logits"]), device))
    return results


def read_results(content: bytes, device: dict[str, Any]) -> dict[str, np.ndarray]:
    """What `loader trace` wrote: see `named`. Raises ValueError where it is no whole number of samples."""
    fields = [(str(i), np.uint8, tuple(entry["nhwc"])) for i, entry in enumerate(device["trace"])]
    rows = np.frombuffer(content, np.dtype([*fields, ("logits", "<f4", tuple(device["logits"]))]))
    return named([np.ascontiguousarray(rows[name]) for name in rows.dtype.names or ()], device)


def replay(folder: Path, seconds: float, threads: int = 1) -> list[str]:
    """What is not as it was built; the latency is measured for `seconds`."""
    problems = broken_files(folder, read_manifest(folder), FILES)
    if problems:
        return problems
    device = read_device(folder)
    golden = read_golden(folder, traced(device), *port_names(device))
    reason = why_not_here(device)
    if reason:
        return [reason]
    module = open_module(folder, threads)
    given = inputs_of(golden, device)
    found = trace(module["trace"], given, device)
    if "follow" in device:
        problems = follow_problems(module["follow"], given, golden, found, device)
    else:
        problems = compare_golden(golden, found)
    function, samples = module["main"], samples_of(given, device)
    logits = np.concatenate([np.from_dlpack(function(*sample)) for sample in samples])
    outputs = split_outputs(logits.reshape([len(samples)] + device["logits"]), device)
    problems += ["main: " + line for name, output in outputs.items()
                 for line in logit_differences(output, found[name], None, name)]
    print_latency(lambda: function(*samples[0]), seconds, threads=threads)
    return problems


def follow_problems(
    function: Callable[..., Any], given: Sequence[np.ndarray], golden: dict[str, np.ndarray],
    found: dict[str, np.ndarray], device: dict[str, Any],
) -> list[str]:
    """What is not as it was built where float operators may round otherwise on this processor.

    Fed golden's codes after each of them, the module must give golden's everywhere else; fed its own, what it gave.

    Args:
        function: `follow`, the module that goes on from codes that it is given.
        given: the samples of every input.
        found: what `trace` gave.
    """

    def followed(codes: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return trace(function, [*given, *(in_memory(codes[name], name, device) for name in device["follow"])], device)

    fed = {name: golden[NEAR + name if NEAR + name in golden else CODE + name] for name in device["follow"]}
    problems = compare_golden(golden, followed(fed))
    again = followed(found)
    return problems + [name + ": the module does not follow its own codes" for name, values in found.items()
                       if again[name].tobytes() != values.tobytes()]


def run_pieces(
    function: Callable[..., Any], arrays: Sequence[np.ndarray], codes: Mapping[str, np.ndarray], device: dict[str, Any]
) -> dict[str, np.ndarray]:
    """What every layer gives for codes that are put in the place of what it reads, as `trace`.

    Args:
        function: `pieces`.
        arrays: of every input [N, ...], in order.
        codes: of every quantized tensor.
    """
    given = [in_memory(codes[name], name, device) for name in traced(device)]
    return trace(function, [*arrays, *given], {**device, "follow": device["trace"]})


def check_layers(folder: Path, threads: int = 1) -> list[str]:
    """The layers that give other codes than they must, each run by itself."""
    manifest = read_manifest(folder)
    need_probe(folder, manifest, PROBE)
    problems = broken_files(folder, manifest, (*FILES, PROBE))
    if problems:
        return problems
    device = read_device(folder)
    inputs, outputs = port_names(device)
    probe = read_probe(folder, traced(device), inputs, outputs)
    reason = why_not_here(device)
    if reason:
        return [reason]
    function = open_module(folder, threads)["pieces"]
    return probe_problems(
        probe, lambda x, codes: run_pieces(function, [x[name] for name in inputs], codes, device), manifest)


def in_memory(codes: np.ndarray, name: str, device: dict[str, Any]) -> np.ndarray:
    """Codes [N, ...] of a quantized tensor as `trace` gives them, [N, height, width, channels]."""
    entry = next(entry for entry in device["trace"] if entry["name"] == name)
    height, width, channels = entry["nhwc"]
    if entry.get("in_order"):
        return codes.reshape(-1, height, width, channels)
    return np.ascontiguousarray(codes.reshape(-1, channels, height, width).transpose(0, 2, 3, 1))


def check_results(folder: Path, path: Path) -> list[str]:
    """What `loader trace` wrote to `path` on the device that is not as it was built."""
    problems = broken_files(folder, read_manifest(folder), FILES)
    if problems:
        return problems
    device = read_device(folder)
    golden = read_golden(folder, traced(device), *port_names(device))
    return compare_golden(golden, read_results(path.read_bytes(), device))


def traced(device: dict[str, Any]) -> list[str]:
    """Names of the quantized tensors, in execution order."""
    return [entry["name"] for entry in device["trace"]]


def inputs_of(golden: dict[str, np.ndarray], device: dict[str, Any]) -> list[np.ndarray]:
    """The golden samples of every input, in the order of the module's arguments."""
    found = golden_inputs(golden)
    return [found[name] for name in port_names(device)[0]]


def write_input(folder: Path, path: Path) -> int:
    """Write the golden inputs as `loader` reads them: sample by sample every input, float32 or int32."""
    device = read_device(folder)
    given = inputs_of(read_golden(folder, traced(device), *port_names(device)), device)
    kinds = ["<i4" if entry["input"]["dtype"] == "int32" else "<f4" for entry in described_inputs(device)]
    with path.open("wb") as file:
        for i in range(len(given[0])):
            for array, kind in zip(given, kinds):  # noqa: B905 (Python 3.8)
                file.write(array[i].astype(kind).tobytes())
    return 0


def timed(folder: Path, batch: int, threads: int) -> Contender:
    """The artifact for `isobit bench`, a batch one sample after the other; raises ValueError where it is damaged,
    CannotCheck where it does not run here.
    """
    check_files(folder, FILES)
    device = read_device(folder)
    reason = untimed(device["machine"], device["cpu_features"], device["profiles"]) or why_not_here(device)
    if reason:
        raise CannotCheck(reason)
    shapes = [(entry["input"]["shape"], entry["input"]["dtype"]) for entry in described_inputs(device)]
    samples = samples_of(random_inputs([([batch, *shape], kind) for shape, kind in shapes]), device)
    function = open_module(folder, threads)["main"]

    def run() -> None:
        for sample in samples:
            function(*sample)

    return Contender(FFI + " " + metadata.version(FFI), run)


def _threads(text: str) -> int:
    threads = int(text)
    if not 1 <= threads <= MOST_THREADS:
        raise argparse.ArgumentTypeError("1 to " + str(MOST_THREADS))
    return threads


def main() -> int:
    """Check, replay, time; 0 where everything is as it was built, 1 where not, 2 where that cannot be said."""
    parser = argparse.ArgumentParser(description="replay the golden inputs of this artifact")
    instead = add_options(parser)
    parser.add_argument("--threads", type=_threads, default=1, metavar="N", help=(
        "run on N threads: the same codes, sooner where cores are free and layers large"))
    instead.add_argument("--probe", action="store_true", help="run each layer by itself on chosen codes, no more")
    instead.add_argument("--write-input", type=Path, metavar="FILE", help="write the golden inputs for loader, no more")
    instead.add_argument("--check", type=Path, metavar="FILE", help="check what `loader trace` wrote for them, no more")
    given = parser.parse_args()
    folder = Path(__file__).resolve().parent
    key = given.require_signature
    if given.write_input:
        if key:
            parser.error("--write-input checks nothing: give --require-signature without it first")
        return write_input(folder, given.write_input)
    if given.check:
        return verdict(lambda: unsigned(folder, key) or check_results(folder, given.check))
    return verdict(lambda: unsigned(folder, key) or (
        show_bench(folder, timed, given.seconds, given.threads) if given.bench else
        check_layers(folder, given.threads) if given.probe else
        replay(folder, given.seconds, given.threads)), checks=not given.bench)


if __name__ == "__main__":
    sys.exit(main())
