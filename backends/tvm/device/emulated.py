"""The artifact of another machine, run here: its own loader and libraries under a user-mode emulator.

The emulator executes every instruction of the device's processor model, so its codes are those of the device; its
times say nothing. It is a hundred times slower than a device, so a proof under it takes fewer samples.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from isobit.backends.tvm.device.device_files import LOADER
from isobit.backends.tvm.device.device_runner import MODEL, described_inputs, read_device, read_results
from isobit.pipeline.errors import ParityError
from isobit.pipeline.samples.network_inputs import Inputs, raw_inputs

BATCH = 16  # samples for each start of the emulator
# A proof under the emulator: at least the golden samples, and at most what takes seconds for small networks and two
# minutes for a ResNet-18 at 224 pixels (0.3 to 1.2 GMAC a second on one core, by profile).
LEAST_SAMPLES, MOST_SAMPLES = 16, 256
PROOF_MACS = 5_000_000_000


def emulated_samples(multiply_accumulates: int) -> int:
    """How many samples a network of so many products is proven on; the same on every machine."""
    return min(MOST_SAMPLES, max(LEAST_SAMPLES, PROOF_MACS // max(1, multiply_accumulates)))


class EmulatedSession:
    """Runs `loader trace` of an artifact.

    Args:
        folder: of the artifact.
        command: what stands before the loader's command line (`toolchain.emulation`); empty runs it natively.
    """

    def __init__(self, folder: Path, command: Sequence[str]) -> None:
        self._folder = folder.resolve()
        self._command = tuple(command)
        self._device = read_device(folder)

    def run(self, x: Inputs | np.ndarray) -> Mapping[str, np.ndarray]:
        """uint8 codes by quantizer name in the graph's shapes, and each output by name, of x [N, ...].

        Raises:
            ParityError: the loader ended with an error, or wrote something else than its results.
        """
        kinds = [entry["input"]["dtype"] for entry in described_inputs(self._device)]
        values = raw_inputs(x, [kind == "int32" for kind in kinds])
        parts = [self._run(values[start:start + BATCH]) for start in range(0, len(values), BATCH)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _run(self, x: np.ndarray) -> dict[str, np.ndarray]:
        with tempfile.TemporaryDirectory() as folder:
            given, written = Path(folder) / "input.bin", Path(folder) / "output.bin"
            given.write_bytes(x.tobytes())
            loader = [str(self._folder / LOADER), "trace", str(self._folder / MODEL), str(given), str(written)]
            done = subprocess.run([*self._command, *loader], capture_output=True, text=True)
            if done.returncode:
                raise self._failed(done.stderr.strip() or f"exit status {done.returncode}")
            results = read_results(written.read_bytes(), self._device)
        if len(next(iter(results.values()))) != len(x):
            raise self._failed(f"it wrote the results of another number of samples than {len(x)}")
        return results

    def _failed(self, reason: str) -> ParityError:
        return ParityError(
            f"the loader of device profile '{self._device['profile']}' failed: {reason}",
            where=" ".join([*self._command, str(self._folder / LOADER)]),
        )
