"""Whatever is printed while stdout belongs to one writer goes to stderr, from wherever it is printed."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from isobit.cli import own_stdout

ROOT = Path(__file__).parents[3]
NOISE = """
import atexit, ctypes, os, subprocess, sys
from isobit.cli.own_stdout import own_stdout

class Noisy:
    def __del__(self):
        print("noise of the end")

kept = Noisy()
print("before")
with own_stdout() as stream:
    print("noise of python")
    sys.__stdout__.write("noise of the first object\\n")
    os.write(1, b"noise of the descriptor\\n")
    ctypes.CDLL(None).puts(b"noise of c")
    subprocess.run([sys.executable, "-c", "print('noise of a child')"])
    stream.write("the result\\n")
    atexit.register(print, "noise of atexit")
print("noise after the block")
"""


@pytest.mark.parametrize("stderr", [subprocess.PIPE, None])
def test_a_process_prints_its_result_alone(stderr):
    command = [sys.executable, "-c", NOISE]
    if stderr is None:  # closed: what is not the result goes nowhere
        command = ["sh", "-c", 'exec "$@" 2>&-', "sh", *command]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True, check=True)
    assert done.stdout == "before\nthe result\n"
    if stderr is not None:
        assert done.stderr.count("noise") == 8


def test_an_object_in_place_of_stdout_comes_back(monkeypatch):
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with own_stdout.own_stdout() as stream:
        print("noise")
        stream.write(json.dumps({"a": 1}))
    print("after")
    assert out.getvalue() == '{"a": 1}after\n' and err.getvalue() == "noise\n"
