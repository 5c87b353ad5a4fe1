"""Everything of an artifact that goes onto a device beside the module: `run.py`, the loader, the runtime libraries."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from isobit.backends.device.standalone import standalone
from isobit.backends.fixed_point.program import Buffer, Conv, Program
from isobit.backends.tvm.device import device_runner
from isobit.backends.tvm.device.device_runner import (
    DEVICE,
    FOLDER,
    HEADER,
    LIBRARIES,
    LOADER,
    SOURCE,
    described_inputs,
)
from isobit.backends.tvm.device.runtime_libs import copy_runtime
from isobit.backends.tvm.device.toolchain import REQUIREMENTS, compiler
from isobit.backends.tvm.profiles import DeviceProfile, profiles_of
from isobit.pipeline.artifact.digest import RUNNER
from isobit.pipeline.errors import TargetError

_FFI_HEADERS = "tvm_ffi/include"


def write_device_files(
    folder: Path, profile: DeviceProfile, program: Program, traced: Sequence[int], kernels: Mapping[str, int],
    followed: Sequence[int] = (),
) -> list[Path]:
    """Write what the device needs beside `model.so` into `folder`; returns the files.

    Args:
        folder: of the artifact; without lib/.
        profile: that the module is built for.
        program: that the module computes.
        traced: numbers of the tensors that the function `trace` returns, in its order, before the logits.
        kernels: how often the function `main` calls each kind of kernel.
        followed: numbers of the tensors whose codes the function `follow` takes after the inputs, in its order.

    Raises:
        TargetError: compiler or runtime libraries are missing (`toolchain.check` says so before calibration).
    """
    facts = describe(profile, program, traced, kernels, followed)
    (folder / DEVICE).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    (folder / HEADER).write_text(header(facts), encoding="utf-8")
    (folder / RUNNER).write_text(standalone(Path(device_runner.__file__)), encoding="utf-8")
    shutil.copyfile(Path(__file__).with_name(SOURCE), folder / SOURCE)
    libraries = copy_runtime(profile.machine, folder)
    names = (DEVICE, HEADER, RUNNER, SOURCE)
    return [*(folder / name for name in names), build_loader(folder, profile), *libraries]


def describe(
    profile: DeviceProfile, program: Program, traced: Iterable[int], kernels: Mapping[str, int],
    followed: Iterable[int] = (),
) -> dict[str, Any]:
    """The content of device.json: what runs where, and what goes in and comes out, in order."""
    inputs, outputs = [_described_input(buffer) for buffer in program.inputs], [program.buffers[i] for i in traced]
    return {
        "profile": profile.name,
        "machine": profile.machine.name,
        "triple": profile.machine.triple,
        "cpu_features": list(profile.features),
        "profiles": {name: list(required) for name, required in profiles_of(profile.machine.name).items()},
        "packages": {name: metadata.version(name) for name in REQUIREMENTS},
        **(inputs[0] if len(inputs) == 1 else {"inputs": inputs}),
        "trace": [{"name": entry.name, "nhwc": list(entry.shape), "shape": list(entry.nchw),
                   **({"in_order": True} if entry.in_order else {})} for entry in outputs],
        **({"follow": names} if (names := [program.buffers[number].name for number in followed]) else {}),
        "logits": list(program.logits),
        **program.ports,
        "multiply_accumulates": multiply_accumulates(program),
        "kernels": dict(sorted(kernels.items())),
    }


def _described_input(buffer: Buffer) -> dict[str, Any]:
    """What `main` and `codes` read of one input."""
    if buffer.integers:
        return {key: {"dtype": "int32", "shape": list(buffer.nchw)} for key in ("input", "codes")}
    return {
        "input": {"dtype": "float32", "shape": list(buffer.nchw)},
        "codes": {"dtype": "uint8", "nhwc": list(buffer.shape), "scale": buffer.scale, "zero_point": buffer.zero_point},
    }


def multiply_accumulates(program: Program) -> int:
    """Products of weights and codes in one inference."""
    return sum(_outputs(step, program) * step.weights.codes[0].size for step in program.steps if isinstance(step, Conv))


def _outputs(step: Conv, program: Program) -> int:
    return program.logits_of(step)[1] if step.output is None else program.buffers[step.output].size


def header(facts: dict[str, Any]) -> str:
    """C++ form of what `loader.cc` wants to know of device.json."""
    profiles = ", ".join(f'{{"{name}", "{" ".join(required)}"}}' for name, required in facts["profiles"].items())
    features = ", ".join(f'"{name}"' for name in facts["cpu_features"])
    lines = []
    for name, key in (("kInputs", "input"), ("kCodes", "codes")):
        rows = [_header_input(entry[key]) for entry in described_inputs(facts)]
        lines.append(f"const std::vector<Input> {name} = {{{', '.join(rows)}}};")
    return "\n".join([
        "// What loader.cc must know of this artifact; device.json says the same and more.",
        "#pragma once",
        "#include <cstdint>",
        "#include <string>",
        "#include <vector>",
        "struct Input {",
        "  std::string type;  // float32, uint8 or int32",
        "  std::vector<int64_t> shape;",
        "};",
        "struct Profile {",
        "  const char* name;",
        "  const char* features;  // words of /proc/cpuinfo",
        "};",
        f"constexpr const char* kFeatures[] = {{{features}}};  // of the profile {facts['profile']}",
        f"constexpr Profile kProfiles[] = {{{profiles}}};  // of {facts['machine']}, the best first",
        *lines, "",
    ])


def _header_input(entry: dict[str, Any]) -> str:
    shape = [1, *(entry.get("nhwc") or entry["shape"])]
    return f'{{"{entry["dtype"]}", {{{", ".join(map(str, shape))}}}}}'


def build_loader(folder: Path, profile: DeviceProfile) -> Path:
    """Compile the artifact's loader for the profile's machine; the libraries are found in lib/ beside it."""
    # As the compiler names them in messages: without links.
    headers = Path(str(metadata.distribution("apache-tvm-ffi").locate_file(_FFI_HEADERS))).resolve()
    libraries = [f"-l{name.removeprefix('lib').removesuffix('.so')}" for name in LIBRARIES]
    done = subprocess.run(
        [
            compiler(profile), "-std=c++17", "-O2", "-s", SOURCE, "-isystem", str(headers),
            f"-ffile-prefix-map={headers}=tvm_ffi",  # messages name a header; not where it lies on this machine
            f"-L{FOLDER}", "-Wl,--no-as-needed", *libraries, f"-Wl,-rpath,$ORIGIN/{FOLDER}", "-o", LOADER,
        ],
        cwd=folder, capture_output=True, text=True,
    )
    if done.returncode:
        raise TargetError(
            "the loader of the artifact cannot be compiled", where=done.stderr.strip()[:2000],
            hint="Install the compiler's package and apache-tvm-ffi again.",
        )
    return folder / LOADER
