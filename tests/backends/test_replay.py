"""The frame of every `run.py`: files that changed, the median of a latency, a verdict whatever happens."""

import ast
import hashlib
import json

import pytest

from backends import golden, replay
from backends.replay import broken_files, print_latency, verdict


def test_missing_and_changed_files_are_named(tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    entry = {"bytes": 1, "sha256": hashlib.sha256(b"a").hexdigest()}
    (tmp_path / "manifest.json").write_text(json.dumps({"files": {"lib/a": entry, "b": entry, "c": entry}}))
    assert broken_files(tmp_path) == ["b: changed since it was built", "c: missing"]


def test_latency_is_the_median_of_at_least_five_calls(capsys):
    calls = []
    print_latency(lambda: calls.append(1), 0.0)
    assert len(calls) == 10
    assert capsys.readouterr().out.startswith("latency: 0.0")


@pytest.mark.parametrize(("problems", "code", "last"), [([], 0, "PASS"), (["x: wrong"], 1, "FAIL")])
def test_the_last_line_is_the_verdict(capsys, problems, code, last):
    assert verdict(lambda: problems) == code
    assert capsys.readouterr().out.splitlines() == [*problems, last]


def test_an_error_is_a_finding_and_no_traceback(capsys):
    assert verdict(lambda: 1 // 0) == 1
    assert capsys.readouterr().out.splitlines() == ["ZeroDivisionError: integer division or modulo by zero", "FAIL"]


@pytest.mark.parametrize("module", [golden, replay], ids=lambda module: module.__name__)
def test_the_syntax_is_that_of_python_3_8(module):
    with open(module.__file__) as file:
        ast.parse(file.read(), feature_version=(3, 8))
