"""What a backend is: a target as data, an emitter, its own integer arithmetic, a session. One folder or file each.

A backend reads the frozen reference and writes files; it never fuses, folds or drops an operator on its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from torch import fx

from isobit.backends.device.replay import CannotCheck
from isobit.backends.device.timing import Contender
from isobit.pipeline.artifact.manifest import PreprocessingEntry
from isobit.pipeline.errors import TargetError
from isobit.pipeline.proof.arithmetic import Arithmetic, Pieces, Runner
from isobit.pipeline.proof.findings import ReadBack
from isobit.pipeline.registry import Registry
from isobit.pipeline.samples.network_inputs import Inputs
from isobit.pipeline.stages import Reference
from isobit.pipeline.target import Target


class Backend(Protocol):
    """One runtime."""

    @property
    def name(self) -> str:
        """Name of the target."""
        ...

    @property
    def profiles(self) -> tuple[str, ...]:
        """Device profiles, the default first."""
        ...

    @property
    def levels(self) -> tuple[str, ...]:
        """Optimisation levels of a session, the one that users deploy with first."""
        ...

    @property
    def gated_levels(self) -> tuple[str, ...]:
        """The levels that run integer kernels, where no code may differ."""
        ...

    @property
    def model_file(self) -> str:
        """Name of the artifact's main file."""
        ...

    @property
    def device_needs(self) -> str:
        """What the artifact's folder needs on the device, for people: `numpy and onnxruntime`."""
        ...

    @property
    def firmware(self) -> tuple[str, ...]:
        """Files that are compiled into a firmware; none where the folder goes on the device."""
        ...

    @property
    def packages(self) -> tuple[str, ...]:
        """Distributions of the runtime that building and proving take, for `isobit doctor`."""
        ...

    @property
    def tools(self) -> Mapping[str, tuple[str, ...]]:
        """What else it calls, by what it is (`C compiler`): the commands, of which the first that is there is taken."""
        ...

    @property
    def probes(self) -> bool:
        """Whether `run.py --probe` runs the layers by themselves on a device, on what `probe.npz` says."""
        ...

    def target(self, profile: str) -> Target:
        """The operator table; raises TargetError as `check` does."""
        ...

    def check(self, profile: str) -> None:
        """Whether this machine can build and prove for a profile; quick, and nothing is fetched.

        Raises:
            TargetError: what is missing; the hint says how to get it.
        """

    def unsupported(self, graph: fx.GraphModule, target: Target) -> Iterable[tuple[fx.Node, str]]:
        """Operators that cannot be emitted as they are placed, with the reason; before calibration.

        One that the target may leave in float (`Target.float_operators`) and has not yet is placed there, and the graph
        is asked again; another is an error.

        Args:
            graph: quantized for `target`.
        """
        ...

    def emit(self, reference: Reference, folder: Path) -> list[Path]:
        """Write the artifact's model files and its `run.py` into `folder`."""
        ...

    def describe(self, folder: Path, preprocessing: PreprocessingEntry) -> None:
        """Called after `emit` where image files were given: write into the model file, where its form has a place, how
        a picture becomes the input, and a `predict.py` for the device where there can be one.
        """
        ...

    def read_back(self, reference: Reference, folder: Path, preprocessing: PreprocessingEntry | None) -> ReadBack:
        """Read the finished model files again, with no code of the emitters, and compare every field with what the
        reference says must stand there; what an operator means is read from the graph that `emit` reads, too.

        Args:
            preprocessing: what `describe` was called with; None where it was not.
        """
        ...

    def derive(self, folder: Path) -> Mapping[str, Derived]:
        """By the name of a tensor, the bound and thresholds of its sums, worked out from the finished files alone."""
        ...

    def arithmetic(self, reference: Reference) -> Arithmetic:
        """The target's own integer arithmetic on the reference."""
        ...

    def open(self, folder: Path, level: str) -> Runner:
        """A session of the artifact at an optimisation level that reports every quantized tensor."""
        ...

    def pieces(self, folder: Path) -> Pieces | None:
        """The artifact's layers, each to be run by itself on chosen codes; None where that cannot be done."""
        ...

    def untimed(self, profile: str) -> str:
        """Why a time that is measured here says nothing of the devices of a profile; empty where it does."""
        ...

    def timed(self, folder: Path, sample: Inputs) -> Callable[[], object]:
        """One inference of a sample by the files as users deploy them, on the calling thread; asked for where nothing
        is `untimed`.
        """
        ...

    def contender(self, folder: Path, batch: int, threads: int) -> Contender:
        """A batch of random inputs by the files as users deploy them, for `isobit bench`.

        Raises:
            CannotCheck: why this machine, or this target, has no time of it on so many threads.
            ValueError: the folder is not as it was built.
        """
        ...

    def timed_float(self, reference: Reference, sample: Inputs) -> Callable[[], object] | None:
        """The same by this runtime of the network before it was quantized, in float32; None where it runs none."""
        ...

    def proof_samples(self, folder: Path) -> int | None:
        """How many evaluation samples the artifact is proven on; None for all, few where its processor is emulated."""
        ...

    def finish(self, folder: Path) -> None:
        """Called when `golden.npz` stands in the folder, for a backend that ships it in another form as well."""
        ...

    def integer_ops(self, folder: Path) -> Mapping[str, Any]:
        """What the runtime really runs in integers: `{"integer": n, "float": m, "reasons": {node: why}}`."""
        ...

    def sizes(self, folder: Path) -> Mapping[str, int]:
        """Bytes of what goes on the device, by name, for the manifest; at least `model`."""
        ...

    def versions(self) -> Mapping[str, str]:
        """Versions of the runtime's packages, for the manifest."""
        ...


class Derived(Protocol):
    """What was worked out from files; see `pipeline.proof.counts.Reach`."""

    @property
    def bound(self) -> int | None:
        """The largest magnitude of the sums; None where it is not worked out."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 of their ends and thresholds."""
        ...


NOT_READ = ReadBack(reason="this target has no reader of its files")
BACKENDS: Registry[Backend] = Registry("target", TargetError, "isobit.targets", "target")


class PlainBackend:
    """What a runtime answers that asks for nothing special; a target states the rest of `Backend`, and what differs.

    It has one profile and one level, needs nothing on this machine, emits every operator as it is placed, and is proven
    on all samples.
    """

    name = ""
    profiles: tuple[str, ...] = ("generic",)
    levels: tuple[str, ...] = ("default",)
    gated_levels: tuple[str, ...] = ("default",)
    model_file = ""
    device_needs = ""
    firmware: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    tools: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    probes = False

    def check(self, profile: str) -> None:
        """Nothing is missing."""

    def unsupported(self, graph: fx.GraphModule, target: Target) -> Iterable[tuple[fx.Node, str]]:
        """None."""
        return ()

    def describe(self, folder: Path, preprocessing: PreprocessingEntry) -> None:
        """No place for it."""

    def read_back(self, reference: Reference, folder: Path, preprocessing: PreprocessingEntry | None) -> ReadBack:
        """It has no reader."""
        return NOT_READ

    def derive(self, folder: Path) -> Mapping[str, Derived]:
        """Nothing is read from them."""
        return {}

    def pieces(self, folder: Path) -> Pieces | None:
        """They cannot be run apart."""
        return None

    def untimed(self, profile: str) -> str:
        """Nothing is known of it, unless it says how it is timed."""
        return "" if type(self).timed is not PlainBackend.timed else self.no_runtime

    def timed(self, folder: Path, sample: Inputs) -> Callable[[], object]:
        """None is."""
        raise CannotCheck(self.no_runtime)

    def contender(self, folder: Path, batch: int, threads: int) -> Contender:
        """None is."""
        raise CannotCheck(self.no_runtime)

    @property
    def no_runtime(self) -> str:
        """Why it has no times."""
        return f"the target '{self.name}' has no runtime that is timed: build for another"

    def timed_float(self, reference: Reference, sample: Inputs) -> Callable[[], object] | None:
        """It runs none."""
        return None

    def proof_samples(self, folder: Path) -> int | None:
        """All."""
        return None

    def finish(self, folder: Path) -> None:
        """Nothing more to write."""

    def integer_ops(self, folder: Path) -> Mapping[str, Any]:
        """Not counted."""
        return {"integer": 0, "float": 0, "reasons": {"all": "this target does not count them"}}

    def sizes(self, folder: Path) -> Mapping[str, int]:
        """The main file."""
        return {"model": (folder / self.model_file).stat().st_size}

    def versions(self) -> Mapping[str, str]:
        """Those of `packages`."""
        return {name: version(name) for name in self.packages}
