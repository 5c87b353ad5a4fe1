"""Results of a sweep as runs of MLflow, in a store of files below the sweep's folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from isobit.pipeline.errors import InputError
from isobit.sweep.results import DONE, Row

STORE, KEY = "mlflow", "isobit.key"


def check() -> Any:
    """The module; raises InputError where MLflow is not installed."""
    try:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # newer releases ask for a database instead
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # they also report each call to their makers
        return import_module("mlflow")
    except ImportError as error:
        raise InputError("--log mlflow needs MLflow", field="log", hint="pip install 'isobit[mlflow]'") from error


def log(rows: Sequence[Row], runs: Path, study: str) -> int:
    """Write every done cell that is not there yet, as a run of the experiment `study`; how many were written.

    Args:
        runs: the folder of the sweep.
    """
    client = check().MlflowClient(tracking_uri=(runs / STORE).resolve().as_uri())
    known = client.get_experiment_by_name(study)
    experiment = client.create_experiment(study) if known is None else known.experiment_id
    written = 0
    for row in rows:
        if row.status != DONE or client.search_runs([experiment], f"tags.`{KEY}` = '{row.key}'", max_results=1):
            continue
        run = client.create_run(experiment, tags={KEY: row.key, "mlflow.runName": Path(row.artifact).name})
        for name in ("model", "recipe", "target", "profile", "seed"):
            client.log_param(run.info.run_id, name, getattr(row, name))
        client.log_param(run.info.run_id, "set", " ".join(row.edits) or "-")
        for name, value in _numbers(row).items():
            client.log_metric(run.info.run_id, name, value)
        client.set_terminated(run.info.run_id)
        written += 1
    return written


def _numbers(row: Row) -> dict[str, float]:
    said = {"bytes": row.bytes, "differing": row.differing, "seconds": row.seconds, "latency_ms": row.latency,
            **{f"accuracy_{stage}": value for stage, value in row.accuracy.items()}}
    return {name: float(value) for name, value in said.items() if value is not None}
