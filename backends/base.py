"""What a backend is: a target as data, an emitter, its own integer arithmetic, a session. One folder or file each.

A backend reads the frozen reference and writes files; it never fuses, folds or drops an operator on its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import fx

from pipeline.errors import TargetError
from pipeline.parity import Arithmetic, Runner
from pipeline.registry import Registry
from pipeline.stages import Reference
from pipeline.target import Target


class Backend(Protocol):
    """One runtime.

    Attributes:
        name: as given to `--target`.
        profiles: device profiles, the default first.
        levels: optimisation levels of a session, the one that users deploy with first.
        gated_levels: those that run integer kernels, where no code may differ.
        model_file: name of the artifact's main file.
        device_needs: what the artifact's folder needs on the device, for people: `numpy and onnxruntime`.
    """

    name: str
    profiles: tuple[str, ...]
    levels: tuple[str, ...]
    gated_levels: tuple[str, ...]
    model_file: str
    device_needs: str

    def target(self, profile: str) -> Target: ...

    def unsupported(self, graph: fx.GraphModule) -> Iterable[tuple[fx.Node, str]]:
        """Operators that can be emitted neither in integers nor in float, with the reason; before calibration."""

    def emit(self, reference: Reference, folder: Path) -> list[Path]:
        """Write the artifact's model files and its `run.py` into `folder`."""

    def arithmetic(self, reference: Reference) -> Arithmetic:
        """The target's own integer arithmetic on the reference."""

    def open(self, folder: Path, level: str) -> Runner:
        """A session of the artifact at an optimisation level that reports every quantized tensor."""

    def proof_samples(self, folder: Path) -> int | None:
        """How many evaluation samples the artifact is proven on; None for all, few where its processor is emulated."""

    def finish(self, folder: Path) -> None:
        """Called when `golden.npz` stands in the folder, for a backend that ships it in another form as well."""

    def integer_ops(self, folder: Path) -> Mapping[str, Any]:
        """What the runtime really runs in integers: `{"integer": n, "float": m, "reasons": {node: why}}`."""

    def sizes(self, folder: Path) -> Mapping[str, int]:
        """Bytes of what goes on the device, by name, for the manifest; at least `model`."""

    def versions(self) -> Mapping[str, str]:
        """Versions of the runtime's packages, for the manifest."""


BACKENDS: Registry[Backend] = Registry("target", TargetError)
