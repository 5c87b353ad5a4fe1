"""Jobs through submitit's executor of this machine."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pytest

from isobit.sweep.folder import Runs
from tests.isobit.commands import ENVIRONMENT

pytestmark = pytest.mark.skipif(find_spec("submitit") is None, reason="the engine 'slurm' needs isobit[slurm]")
# Warnings of submitit are not ours: the engine is looked at in a process of its own.
UNIT = """
import sys
from isobit.pipeline.errors import InputError
from isobit.sweep.engines import Settings, open_engine
from isobit.sweep.process import Task
from isobit.sweep.study import Resources
folder = sys.argv[1]
engine = open_engine("slurm", Settings(Resources(minutes=5), 3, None, folder + "/slurm", {"cluster": "local"}))
print(engine.slots(), len(engine.ended(0.0)))
for name in ("a", "b"):
    engine.start(Task(name, folder, ("model",), "other code"))
found = {}
while len(found) < 2:
    found |= {ended.cell: ended.code for ended in engine.ended(1.0)}
print(sorted(found.items()))
engine.start(Task("c", folder, ("model",), "other code"))
engine.close()
for bad in ({"cluster": "none"}, {"cluster": "local", "color": "red"}):
    try:
        open_engine("slurm", Settings(Resources(), None, None, folder, bad))
    except InputError as error:
        print(error.field)
"""


def test_jobs_come_back_with_the_exit_codes_of_their_processes(tmp_path):
    said = subprocess.run([sys.executable, "-c", UNIT, str(tmp_path)], env=ENVIRONMENT, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert said.stdout.splitlines() == ["3 0", "[('a', 76), ('b', 76)]", "slurm", "slurm"]
    assert "not what the sweep began with" in Runs(tmp_path).failure("a")["message"]
