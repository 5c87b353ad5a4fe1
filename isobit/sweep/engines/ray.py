"""Tasks of a Ray cluster: one that stands, by its address, or one of this machine for as long as the sweep runs.

Ray places a cell by its processors, memory and GPUs, starts it again where a worker or a node died, and shares GPUs
out. Only the task's text travels; models, data and artifacts are on a file system that every node sees.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from isobit.pipeline.errors import InputError, first_line
from isobit.pipeline.memory import GIGABYTE
from isobit.sweep.engines import Ended, Settings
from isobit.sweep.hashes import ROOT
from isobit.sweep.process import Task, run

RETRIES = 3  # of a task whose worker or node died
AHEAD = 1.25  # tasks that wait on the cluster, beside those that run: no node waits for the driver
OBJECTS = 80_000_000  # bytes of the store of a cluster of our own, the least that Ray takes
KNOCK = 10.0  # seconds


class RayEngine:
    """See the module.

    Args:
        ray: the module; the driver is connected.
        jobs: cells at a time; None for what the cluster has room for.
    """

    def __init__(self, ray: Any, settings: Settings) -> None:
        self._ray, self._settings, self._jobs = ray, settings, settings.jobs
        wanted = settings.resources
        self._run = ray.remote(run).options(
            num_cpus=wanted.cpus, num_gpus=wanted.gpus, memory=int(wanted.memory * GIGABYTE), max_retries=RETRIES,
        )
        self._running: dict[Any, str] = {}

    def slots(self) -> int:
        if self._jobs is not None:
            return self._jobs
        has, wanted = self._ray.cluster_resources(), self._settings.resources
        room = [has.get("CPU", 0) / wanted.cpus, has.get("memory", 0) / (wanted.memory * GIGABYTE)]
        room += [has.get("GPU", 0) / wanted.gpus] if wanted.gpus else []
        return max(1, int(AHEAD * min(room)))

    def start(self, task: Task) -> None:
        self._running[self._run.remote(task)] = task.cell

    def ended(self, seconds: float) -> Sequence[Ended]:
        if not self._running:
            return []
        over, left = self._ray.wait(list(self._running), num_returns=1, timeout=seconds)
        if over and left:
            over += self._ray.wait(left, num_returns=len(left), timeout=0)[0]
        return [self._taken(reference) for reference in over]

    def _taken(self, reference: Any) -> Ended:
        cell = self._running.pop(reference)
        try:
            return Ended(cell, self._ray.get(reference))
        except self._ray.exceptions.RayError:
            return Ended(cell, None)

    def close(self) -> None:
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running.clear()
        self._ray.shutdown()


def open_engine(settings: Settings) -> RayEngine:
    """Connect, or start a cluster of this machine.

    Raises:
        InputError: Ray is not installed, or no cluster answers at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray = import_module("ray")
    except ImportError as error:
        raise InputError("the engine 'ray' needs Ray", field="engine", hint="pip install 'isobit[sweep]'") from error
    if settings.address not in (None, "auto"):
        _knock(settings.address)
    said: dict[str, Any] = {"address": settings.address, "runtime_env": _checkout()} if settings.address else {
        "address": "local", "num_cpus": _processors(settings), "object_store_memory": OBJECTS,
        "include_dashboard": False, **_memory(settings)}
    os.environ |= _checkout()["env_vars"]  # of the workers of a cluster of our own
    try:
        ray.init(log_to_driver=False, logging_level="ERROR", **said)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise _silent(settings.address or "this machine", error) from error
    return RayEngine(ray, settings)


def _knock(address: str) -> None:
    """Raises InputError where nobody listens: Ray would end this process, after a minute."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=KNOCK).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _silent(address, error) from error


def _silent(address: str, error: Exception) -> InputError:
    return InputError(
        f"no Ray cluster answers: {first_line(error)}", where=address, field="address", allowed="host:port",
        hint="The command 'ray start --head' on one node prints the address. A cluster with a token takes drivers that "
        "have RAY_AUTH_MODE=token and the token, as Ray documents.",
    )


def _checkout() -> dict[str, dict[str, str]]:
    """Workers import the checkout that this process runs from, where it is one; every node sees it."""
    return {"env_vars": {"PYTHONPATH": str(ROOT)} if (ROOT / "pipeline").is_dir() else {}}


def _memory(settings: Settings) -> dict[str, int]:
    """`--jobs` counts, and what Ray keeps for its own store does not."""
    wanted = int(settings.resources.memory * GIGABYTE)
    return {} if settings.jobs is None else {"_memory": settings.jobs * wanted}


def _processors(settings: Settings) -> int:
    """Processors of a cluster of our own: so many cells at a time as `--jobs` says, or as there are processors."""
    cpus = settings.resources.cpus
    return max(cpus, os.cpu_count() or 1) if settings.jobs is None else settings.jobs * cpus
