"""The artifact's own C files, compiled for a machine and run with every tensor read out: here or under an emulator."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from isobit.backends.c.constants import describe_inputs
from isobit.backends.c.emit import SOURCE, read_description, render
from isobit.backends.c.toolchain import MACHINES, STANDARD, compile_c, compiler_of
from isobit.backends.device.golden import port_names, split_outputs
from isobit.pipeline.errors import ParityError
from isobit.pipeline.samples.network_inputs import Inputs, raw_inputs

LEVELS = {"O2": "-O2", "Os": "-Os"}  # what firmware is compiled for: speed, size
BATCH = 16  # samples whose tensors lie in one file
_PROGRAM, _INPUT, _OUTPUT, _GIVEN = "session", "input.bin", "output.bin", "given.bin"
_SHIPPED_DIFFERS = 3  # exit status: reading the tensors out changed the logits


class _Program:
    """A program that includes `model.c`, and runs as a process of its own.

    On this machine it also runs the untouched `model.c`, whose logits must be the same. An emulated one has no room
    for the constants of both.

    Args:
        folder: of the artifact.
        level: key of `LEVELS`.
        pieces: layers read codes that are given; see `CPieces`.

    Attributes:
        command: what runs the program.

    Raises:
        TargetError: there is no compiler, or it refuses the files.
    """

    def __init__(self, folder: Path, level: str, pieces: bool = False) -> None:
        self.level = level
        self._model = read_description(folder)
        self._machine = MACHINES[self._model["profile"]]
        self._folder = Path(tempfile.mkdtemp(prefix="isobit-c-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        compared = not self._machine.emulator and not pieces
        source, program = self._folder / f"{_PROGRAM}.c", self._folder / _PROGRAM
        name = self._model["name"]
        self._inputs = describe_inputs(name, port_names(self._model)[0], [
            (tensor["shape"], tensor.get("integers", False))
            for tensor in self._model["tensors"][:len(port_names(self._model)[0])]
        ])
        values = {"name": name, "guard": name.upper(), "compared": compared, "shipped_differs": _SHIPPED_DIFFERS,
                  "inputs": self._inputs, "pieces": pieces}
        source.write_text(render(f"{_PROGRAM}.c", values), encoding="utf-8")
        command = [*compiler_of(self._model["profile"]), *STANDARD, LEVELS[level], "-I.", *self._machine.board]
        compile_c([*command, str(source), *([SOURCE] if compared else []), "-o", str(program), "-lm"], folder)
        self.command = [*self._machine.emulator, str(program)]

    def _values(self, x: Inputs | np.ndarray) -> np.ndarray:
        """What input.bin holds."""
        return raw_inputs(x, [entry["integers"] for entry in self._inputs], port_names(self._model)[0])

    def _run(self, values: np.ndarray) -> dict[str, np.ndarray]:
        values.tofile(self._folder / _INPUT)
        done = subprocess.run(self.command, cwd=self._folder, capture_output=True, text=True, check=False)
        if done.returncode == _SHIPPED_DIFFERS:
            raise ParityError(
                f"reading the tensors out changes the logits at level '{self.level}'",
                hint="the compiler is at fault: report its version with the model",
            )
        if done.returncode:
            raise ParityError(
                f"the compiled network ends with exit status {done.returncode} at level '{self.level}'",
                where=" ".join(self.command), hint=(done.stderr or done.stdout).strip()[:300],
            )
        return self._split(np.fromfile(self._folder / _OUTPUT, np.uint8).reshape(len(values), -1))

    def _split(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """What a sample's bytes [N, bytes] hold: tensors in execution order, then logits."""
        found, start = {}, 0
        for number in self._model["order"]:
            tensor = self._model["tensors"][number]
            height, width, channels = tensor["shape"]
            codes = rows[:, start:start + height * width * channels].reshape(-1, height, width, channels)
            start += height * width * channels
            if tensor["quantized"]:
                codes = codes if tensor.get("in_order") else np.ascontiguousarray(codes.transpose(0, 3, 1, 2))
                found[tensor["name"]] = codes.reshape(len(rows), *tensor["nchw"])
        logits = np.ascontiguousarray(rows[:, start:]).view(np.float32)
        return {**found, **split_outputs(logits.reshape(len(rows), *self._model["logits"]), self._model)}


class CSession(_Program):
    """See `_Program`; every tensor is read out.

    Args:
        folder: of the artifact.
        level: key of `LEVELS`.
    """

    def run(self, x: Inputs | np.ndarray) -> Mapping[str, np.ndarray]:
        """uint8 codes by quantizer name in the graph's shape, and each output by name, of x [N, ...].

        Raises:
            ParityError: the program fails, or reading the tensors out changed the logits.
        """
        values = self._values(x)
        parts = [self._run(values[start:start + BATCH]) for start in range(0, max(len(values), 1), BATCH)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


class CPieces(_Program):
    """See `_Program`; codes that are given take the place of every tensor once it was written.

    Args:
        folder: of the artifact.
        level: key of `LEVELS`.
    """

    def __init__(self, folder: Path, level: str) -> None:
        super().__init__(folder, level, pieces=True)

    def run(self, x: Inputs, codes: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """See `pipeline.proof.arithmetic.Pieces`; raises ParityError as `CSession.run` does."""
        values = self._values(x)
        parts = [self._given(tensor, codes, len(values)) for tensor in
                 (self._model["tensors"][number] for number in self._model["order"])]
        np.concatenate(parts, 1).tofile(self._folder / _GIVEN)
        return self._run(values)

    def _given(self, tensor: Mapping[str, Any], codes: Mapping[str, np.ndarray], samples: int) -> np.ndarray:
        """Bytes [N, ...] that stand for a tensor in the file: 1 and its codes as they lie in memory, or 0."""
        if not tensor["quantized"]:
            return np.zeros((samples, 1), np.uint8)
        height, width, channels = tensor["shape"]
        given = codes[tensor["name"]]
        if not tensor.get("in_order"):
            given = given.reshape(samples, channels, height, width).transpose(0, 2, 3, 1)
        return np.concatenate([np.ones((samples, 1), np.uint8), given.reshape(samples, -1)], 1)
