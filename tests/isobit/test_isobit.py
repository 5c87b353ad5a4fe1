"""The public names: all there, each where it lives, and none imported before it is used."""

import subprocess
import sys

import pytest

import isobit


@pytest.mark.parametrize("name", isobit.__all__)
def test_every_public_name_is_there(name):
    assert getattr(isobit, name).__name__ == name and name in dir(isobit)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="compile_modle"):
        _ = isobit.compile_modle


def test_importing_the_package_imports_nothing_heavy():
    program = "import sys, isobit; print(sorted({'torch', 'numpy', 'onnx', 'rich', 'typer'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True,
                          cwd=isobit._HERE.parent)
    assert done.stdout.strip() == "[]"


def test_the_rooms_are_parts_of_the_package():
    program = "import isobit.pipeline.errors as errors; print(errors.ExitCode.OK.value)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True,
                          cwd=isobit._HERE.parent)
    assert done.stdout.strip() == "0"
