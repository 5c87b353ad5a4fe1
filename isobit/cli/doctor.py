"""The command `isobit doctor`: versions, processor, compilers and emulators, and what is missing for which target."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from typing import Any

from isobit import __version__
from isobit.backends.base import BACKENDS, Backend
from isobit.backends.device.processor import features, processor, read_cpuinfo, this_machine
from isobit.bench.peers import PACKAGES as PEERS
from isobit.calib.methods import METHODS
from isobit.calib.roundings import ROUNDINGS
from isobit.calib.sources import SOURCES
from isobit.cli.exits import exit_codes
from isobit.cli.listing import TargetRow, target_rows
from isobit.cli.options import Json
from isobit.cli.tables import Row, show_table
from isobit.cli.terminal import Terminal, open_console
from isobit.pipeline.artifact.manifest import package_versions
from isobit.pipeline.errors import CompileError
from isobit.pipeline.proof.metrics import METRICS
from isobit.pipeline.registry import Registry
from isobit.shipping.ship import PACKAGES

# What integer kernels want of a processor, as Linux names it.
FEATURES = {
    "AVX2": ("avx2",), "VNNI": ("avx512_vnni", "avx_vnni"), "dotprod": ("asimddp",), "i8mm": ("i8mm",),
}
# What a plain install brings besides the packages that every manifest names.
READERS = ("onnxsim", "pillow", "safetensors")
# Packages of one feature -> what installs it. A target's own are told in its row.
EXTRAS = {"faster-coco-eval": "isobit[detection]", "scikit-learn": "isobit[demo]", "ray": "isobit[sweep]",
          "submitit": "isobit[slurm]", "model-signing": "isobit[sign]",
          "mlflow-skinny": "isobit[mlflow]", **dict.fromkeys(PEERS, "isobit[peers]")}
PLUGINS: tuple[Registry[Any], ...] = (METHODS, SOURCES, ROUNDINGS, METRICS, BACKENDS)


@dataclass(frozen=True)
class Diagnosis:
    """What this machine has.

    Args:
        versions: of Isobit, Python and packages; None where one is not installed.
        processor: its name; `machine` as the system calls its kind.
        features: of `FEATURES`, whether the processor has them.
        tools: the command that was found for each tool that a target calls; None where there is none.
        targets: every profile of every target, and what is missing for it.
        plugins: what is wrong with plug-ins that cannot be used.
    """

    versions: dict[str, str | None]
    machine: str
    processor: str
    features: dict[str, bool]
    tools: dict[str, str | None]
    targets: list[TargetRow]
    plugins: list[str]

    def to_json(self) -> dict[str, Any]:
        """For a script."""
        return asdict(self)


def diagnose() -> Diagnosis:
    """Look at this machine; nothing is fetched or built."""
    cpuinfo = read_cpuinfo()
    present = features(cpuinfo)
    backends = list(_backends())
    needed = (name for backend in backends for name in backend.packages)
    names = list(dict.fromkeys([*PACKAGES, *READERS, *needed, *EXTRAS]))
    tools = {tool: commands for backend in backends for tool, commands in backend.tools.items()}
    found = package_versions(*names)
    return Diagnosis(
        {"isobit": __version__, "python": found["python"], **{name: found.get(name) for name in names}},
        this_machine(), processor(cpuinfo),
        {name: not present.isdisjoint(spellings) for name, spellings in FEATURES.items()},
        {tool: next(filter(shutil.which, commands), None) for tool, commands in tools.items()},
        target_rows(),
        [error.what for registry in PLUGINS for error in registry.broken()],
    )


def _backends() -> Iterator[Backend]:
    """Every target that can be loaded; the table of targets tells of those that cannot."""
    for name in BACKENDS.names():
        with suppress(CompileError):
            yield BACKENDS.get(name)


def _install(name: str) -> str:
    """The command that installs an extra; nothing for what the targets' rows tell."""
    return f"pip install '{EXTRAS[name]}'" if name in EXTRAS else ""


def doctor(as_json: Json = False) -> None:
    """Say what this machine has, and what is missing for which target, with the command that installs it."""
    with ExitStack() as stack:
        terminal = Terminal(open_console(sys.stdout), open_console(sys.stderr))
        stack.enter_context(exit_codes(terminal, as_json=as_json, debug=False))
        found = diagnose()
        if as_json:
            terminal.show_json(found.to_json())
            return
        console = terminal.results
        show_table(console, [
            Row((name, version or "not installed", "" if version else _install(name)), marked=version is None)
            for name, version in found.versions.items()
        ], ("package", "version", "do"))
        console.print()
        has = [name for name, there in found.features.items() if there]
        kind = f"{found.processor} ({found.machine})"
        console.print(f"processor  {kind}: {', '.join(has) or 'no integer features known'}", soft_wrap=True)
        console.print()
        show_table(console, [Row((tool, command or "not found")) for tool, command in found.tools.items()],
                   ("tool", "command"))
        console.print()
        show_table(console, [
            Row((row.target, row.profile, row.missing or "ready", row.do), marked=not row.ready)
            for row in found.targets
        ], ("target", "profile", "state", "do"))
        for text in found.plugins:
            console.print(f"plug-in    {text}", soft_wrap=True, markup=False)
