"""Does the network compute what the file computes? The file itself is run in ONNX Runtime, on the same samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from isobit.pipeline.errors import InputError, first_line
from isobit.pipeline.model.onnx.graph import Port

if TYPE_CHECKING:
    import onnxruntime

COMPARED = 4  # samples
GATE = 1e-4  # of the largest magnitude of an output
# ONNX Runtime's own sigmoid and exp are this far from the exact ones: an output of tiny numbers has no better digits.
ROUNDING = 1e-6
LARGEST_FILE = 1 << 31  # bytes of one protobuf


@dataclass(frozen=True)
class OnnxOrigin:
    """The file as its author made it.

    Args:
        inputs: with the sizes that the network is compiled for.
        outputs: names, in the file's order.
        fixed_batch: the file computes with the batch that its inputs declare alone.
        resized: some size differs from the one that the file declares.
        ends: values at which the network ends, where those are not the file's outputs.
    """

    path: Path
    inputs: tuple[Port, ...]
    outputs: tuple[str, ...]
    fixed_batch: bool = False
    resized: bool = False
    ends: tuple[str, ...] = ()

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in the file's order."""
        return tuple(port.name for port in self.inputs)

    def random_samples(self, count: int = COMPARED) -> tuple[Tensor, ...]:
        """Made-up inputs [count, ...], always the same: standard normal, or whole numbers 0 and 1."""
        generator = torch.Generator().manual_seed(0)
        return tuple(
            torch.randn((count, *(size or 1 for size in port.shape[1:])), generator=generator).to(port.dtype)
            if port.dtype.is_floating_point else
            torch.randint(0, 2, (count, *(size or 1 for size in port.shape[1:])), generator=generator).to(port.dtype)
            for port in self.inputs
        )

    def differences(self, network: nn.Module, samples: Sequence[Tensor]) -> dict[str, float]:
        """Largest difference of every output over `samples`, as a share of its largest magnitude.

        Args:
            samples: one tensor [N, ...] for each input.

        Raises:
            InputError: ONNX Runtime does not run the file, or an output has another shape.
        """
        with torch.no_grad():
            given = network(*samples)
        ours = given if isinstance(given, tuple) else (given,)
        theirs = self._run(samples)
        return {
            name: _difference(name, mine.numpy(), theirs[name]) for name, mine in zip(self.outputs, ours, strict=True)
        }

    def check(self, network: nn.Module, samples: Sequence[Tensor]) -> str:
        """One sentence that says how near the network is; raises InputError where it is not near enough."""
        found = self.differences(network, samples)
        worst = max(found, key=lambda name: np.inf if np.isnan(found[name]) else found[name])
        if not found[worst] <= GATE:
            raise InputError(
                f"the output '{worst[:100]}' as read differs from ONNX Runtime's by {found[worst]:.1e} of its largest "
                "magnitude", where=str(self.path), allowed=f"{GATE:.0e}",
                hint="A file that is right in ONNX Runtime and wrong here is a defect of ours.",
            )
        return (
            f"the float network as read from {self.path.name} differs from ONNX Runtime's output of the file by at "
            f"most {found[worst]:.1e} of the largest magnitude ({len(samples[0])} samples, {len(found)} outputs)"
        )

    def _run(self, samples: Sequence[Tensor]) -> Mapping[str, np.ndarray]:
        """The file's outputs [N, ...], sample by sample, each as often as the file's batch wants it."""
        batch = next((port.shape[0] for port in self.inputs if port.shape[0]), 1) if self.fixed_batch else 1
        rows: dict[str, list[np.ndarray]] = {name: [] for name in self.outputs}
        try:
            session = self._session()
            for index in range(len(samples[0])):
                feed = {
                    port.name: tensor[index : index + 1].repeat(batch, *[1] * (tensor.ndim - 1)).numpy()
                    for port, tensor in zip(self.inputs, samples, strict=True)
                }
                for name, value in zip(self.outputs, session.run(list(self.outputs), feed), strict=True):
                    rows[name].append(np.asarray(value)[:1] if batch > 1 else np.asarray(value))
            return {name: np.concatenate([np.atleast_1d(row) for row in found]) for name, found in rows.items()}
        except Exception as error:  # the runtime raises its own types
            raise InputError(
                f"ONNX Runtime does not run the file: {first_line(error)}", where=str(self.path),
                hint="Check that the file runs in ONNX Runtime at this input shape.",
            ) from error

    def _session(self) -> onnxruntime.InferenceSession:
        import onnxruntime

        from isobit.pipeline.model.onnx.ends import ended_at
        from isobit.pipeline.model.onnx.file import open_file
        from isobit.pipeline.model.onnx.simplify import with_free_sizes

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = torch.get_num_threads()
        source: str | bytes = str(self.path)
        proto = None
        if self.ends:
            proto = ended_at(open_file(self.path), self.ends)
            source = proto.SerializeToString()
        if self.resized:  # what the file says of its sizes holds no longer; its nodes stay
            sizes = {port.name: tuple(size or 1 for size in port.shape) for port in self.inputs}
            batch = self.inputs[0].shape[0] if self.fixed_batch else None
            source = with_free_sizes(proto or open_file(self.path), sizes, batch).SerializeToString()
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _difference(name: str, ours: np.ndarray, theirs: np.ndarray) -> float:
    if ours.size != theirs.size:
        raise InputError(
            f"the output '{name[:100]}' has the shape {list(ours.shape)}, in ONNX Runtime {list(theirs.shape)}",
            where="the .onnx file", hint="Export it with a dynamic batch.",
        )
    if not theirs.size:
        return 0.0
    wanted = theirs.astype(np.float64)
    apart = np.abs(ours.astype(np.float64).reshape(wanted.shape) - wanted)
    same = ours.reshape(wanted.shape) == theirs  # infinities too
    largest = float(np.abs(wanted[np.isfinite(wanted)]).max(initial=0.0))
    return float(np.where(same, 0.0, apart).max()) / max(largest, ROUNDING / GATE)
