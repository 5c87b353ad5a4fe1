"""Engines: what starts the processes of cells, here, on a Ray cluster or by Slurm. One file each, found by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from isobit.pipeline.errors import InputError, nearest_spelling
from isobit.sweep.process import Task
from isobit.sweep.study import Resources

ENGINES = ("local", "ray", "slurm")  # of the file of that name, `open_engine`


@dataclass(frozen=True)
class Settings:
    """What an engine is told.

    Args:
        jobs: cells at a time; None for as many as there is room for.
        address: of a Ray cluster that stands; None for one of its own.
        folder: for the engine's own files; every host sees it.
        slurm: parameters of submitit, as the study says them.
    """

    resources: Resources
    jobs: int | None
    address: str | None
    folder: str
    slurm: dict[str, Any]


@dataclass(frozen=True)
class Ended:
    """The process of a cell is over: its exit code, negative for a signal; None where its host was lost."""

    cell: str
    code: int | None


class Engine(Protocol):
    """Runs the processes of cells, each at most once a call of `start`; what came of it is read off the disk."""

    def slots(self) -> int:
        """How many cells it takes at a time, now: a cluster may grow."""
        ...

    def start(self, task: Task) -> None:
        """Begin a cell; returns at once."""
        ...

    def ended(self, seconds: float) -> Sequence[Ended]:
        """Cells that are over since the last call; waits so long for the first."""
        ...

    def close(self) -> None:
        """End what still runs, and wait for that."""
        ...


def open_engine(name: str, settings: Settings) -> Engine:
    """The engine of that name.

    Raises:
        InputError: there is none, or what it needs is not installed or not there.
    """
    if name not in ENGINES:
        raise InputError(f"there is no engine '{name}'", field="engine", allowed=", ".join(ENGINES),
                         hint=nearest_spelling(name, ENGINES))
    return import_module(f"isobit.sweep.engines.{name}").open_engine(settings)
