"""The artifact's module in this process: every quantized tensor read out, and the logits that users get."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from isobit.backends.device.golden import split_outputs
from isobit.backends.tvm.device.device_runner import named, open_module, read_device, run_pieces, samples_of
from isobit.pipeline.errors import ParityError
from isobit.pipeline.samples.network_inputs import Inputs, tensors


class NativeSession:
    """One module, one sample after the other.

    Args:
        folder: of the artifact.
        taps: report the codes of every quantized tensor. They come from the module's function `trace`, which calls the
            kernels of `main`; the outputs of both must agree to the bit.
    """

    def __init__(self, folder: Path, taps: bool = True) -> None:
        import tvm  # noqa: F401 (loads the runtime that a compiler needs as well; a second one ends the process)

        machine = open_module(folder)
        self._device = read_device(folder)
        self._main = machine["main"]
        self._trace = machine["trace"] if taps else None

    def run(self, x: Inputs | np.ndarray) -> Mapping[str, np.ndarray]:
        """uint8 codes by quantizer name (with `taps`), and each output by name, of x [N, ...].

        Raises:
            ParityError: reading the tensors out changed an output.
        """
        arrays = [x] if isinstance(x, np.ndarray) else [tensor.numpy() for tensor in tensors(x)]
        rows = [self._run(sample) for sample in samples_of(arrays, self._device)]
        columns = [np.concatenate(column) for column in zip(*rows, strict=True)]
        return named(columns, self._device) if self._trace is not None else split_outputs(columns[-1], self._device)

    def one_run(self, x: Inputs) -> Callable[[], object]:
        """One inference of a sample [1, ...], without bringing its values in or out."""
        (sample,) = samples_of([tensor.numpy() for tensor in tensors(x)], self._device)
        return lambda: self._main(*sample)

    def _run(self, given: list[Any]) -> list[np.ndarray]:
        """What `trace` returns for one sample."""
        logits = self._main(*given).numpy()
        if self._trace is None:
            return [logits]
        outputs = [output.numpy() for output in self._trace(*given)]
        if not np.array_equal(outputs[-1].view(np.uint32), logits.view(np.uint32)):
            raise ParityError(
                "reading the quantized tensors changes what the module computes",
                hint="functions 'main' and 'trace' call the same kernels: report it with the model",
            )
        return outputs


class NativePieces:
    """The module's function `pieces`: every layer reads codes that are given, one sample after the other.

    Args:
        folder: of the artifact.
    """

    def __init__(self, folder: Path) -> None:
        import tvm  # noqa: F401 (see `NativeSession`)

        self._pieces, self._device = open_module(folder)["pieces"], read_device(folder)

    def run(self, x: Inputs, codes: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """See `pipeline.proof.arithmetic.Pieces`."""
        return run_pieces(self._pieces, [tensor.numpy() for tensor in tensors(x)], codes, self._device)
