"""Results as runs of MLflow."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

from isobit.pipeline.errors import InputError
from isobit.sweep import mlflow_log
from tests.isobit.commands import ENVIRONMENT

# Warnings of MLflow are not ours: it is used in a process of its own.
LOG = """
import sys
from pathlib import Path
from isobit.sweep.mlflow_log import log
from isobit.sweep.results import FAILED
from tests.examples.sweeps import row
rows = [row(90.0), row(80.0, key="1" * 64, edits=("method.steps=5",)), row(None, key="2" * 64, status=FAILED)]
print(log(rows, Path(sys.argv[1]), "study"), log(rows, Path(sys.argv[1]), "study"))
from mlflow import MlflowClient
client = MlflowClient(tracking_uri=(Path(sys.argv[1]) / "mlflow").resolve().as_uri())
runs = client.search_runs([client.get_experiment_by_name("study").experiment_id])
print(sorted((run.data.params["set"], run.data.metrics["accuracy_artifact"]) for run in runs))
from mlflow.environment_variables import MLFLOW_DISABLE_TELEMETRY
print(MLFLOW_DISABLE_TELEMETRY.get())
"""


@pytest.mark.skipif(find_spec("mlflow") is None, reason="--log mlflow needs isobit[mlflow]")
def test_done_cells_are_runs_once(tmp_path):
    said = subprocess.run([sys.executable, "-c", LOG, str(tmp_path)], env=ENVIRONMENT, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert said.stdout.splitlines() == ["2 0", "[('-', 90.0), ('method.steps=5', 80.0)]", "True"]


def test_without_mlflow_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(InputError, match="needs MLflow") as found:
        mlflow_log.check()
    assert found.value.field == "log" and "isobit[mlflow]" in found.value.hint
