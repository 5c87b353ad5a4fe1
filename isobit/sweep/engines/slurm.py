"""Jobs of Slurm through submitit, a job a cell; `slurm: {cluster: local}` of a study runs them on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from isobit.pipeline.errors import InputError, first_line
from isobit.sweep.engines import Ended, Settings
from isobit.sweep.process import Task, run

POLL = 0.5  # seconds; submitit asks Slurm less often by itself
JOBS = 500  # that are queued or run at a time, where --jobs says nothing
CLUSTER = "cluster"


class SlurmEngine:
    """See the module.

    Args:
        executor: of submitit, with the resources of a cell.
    """

    def __init__(self, executor: Any, jobs: int) -> None:
        self._executor, self._jobs = executor, jobs
        self._running: dict[str, Any] = {}

    def slots(self) -> int:
        return self._jobs

    def start(self, task: Task) -> None:
        self._running[task.cell] = self._executor.submit(run, task)

    def ended(self, seconds: float) -> Sequence[Ended]:
        until = time.monotonic() + seconds
        while True:
            over = [name for name, job in self._running.items() if job.done()]
            if over or time.monotonic() >= until:
                return [Ended(name, _code(self._running.pop(name))) for name in over]
            time.sleep(min(POLL, max(0.0, until - time.monotonic())))

    def close(self) -> None:
        for job in self._running.values():
            job.cancel(check=False)
        self._running.clear()


def _code(job: Any) -> int | None:
    """The exit code of the cell's process; None where the job ended otherwise."""
    try:
        return job.result()
    except Exception:  # of many kinds: a job that was cancelled, lost or without a result
        return None


def open_engine(settings: Settings) -> SlurmEngine:
    """Raises InputError where submitit is not installed, there is no Slurm, or it does not take the parameters."""
    try:
        submitit = import_module("submitit")
    except ImportError as error:
        raise InputError("the engine 'slurm' needs submitit", field="engine", hint="pip install 'isobit[slurm]'"
                         ) from error
    wanted, said = settings.resources, dict(settings.slurm)
    try:
        executor = submitit.AutoExecutor(folder=settings.folder, cluster=said.pop(CLUSTER, "slurm"))
        executor.update_parameters(
            timeout_min=wanted.minutes, cpus_per_task=wanted.cpus, mem_gb=wanted.memory,
            **({"gpus_per_node": max(1, round(wanted.gpus))} if wanted.gpus else {}),
            **{f"slurm_{key}": value for key, value in said.items()},
        )
    except (RuntimeError, ValueError, TypeError, NameError) as error:
        raise InputError(f"Slurm cannot be used: {first_line(error)}", field="slurm",
                         allowed="parameters of submitit: partition, account, qos, ...") from error
    return SlurmEngine(executor, settings.jobs or JOBS)
