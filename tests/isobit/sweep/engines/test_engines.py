"""Each engine is a file of its own, with the function that opens it, and imports its library only then."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

from isobit.pipeline.errors import InputError
from isobit.sweep.engines import ENGINES, Settings, open_engine
from isobit.sweep.study import Resources
from tests.isobit.commands import ENVIRONMENT

SETTINGS = Settings(Resources(), 1, None, "", {})


@pytest.mark.parametrize("name", ENGINES)
def test_each_engine_opens_by_its_name(name):
    assert callable(import_module(f"isobit.sweep.engines.{name}").open_engine)


@pytest.mark.parametrize(("name", "module", "extra"), [("ray", "ray", "sweep"), ("slurm", "submitit", "slurm")])
def test_an_engine_whose_library_is_missing_says_what_installs_it(monkeypatch, name, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=f"engine '{name}' needs") as found:
        open_engine(name, SETTINGS)
    assert found.value.field == "engine" and f"isobit[{extra}]" in found.value.hint


def test_the_command_line_imports_none_of_the_libraries():
    program = "import isobit.cli, sys; print([n for n in ('ray', 'submitit', 'mlflow') if n in sys.modules])"
    said = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert said.stdout == "[]\n"
