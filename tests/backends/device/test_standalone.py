"""Scripts that are shipped: one file, nothing of ours to import, everything in it once and in order."""

import ast
import os
import subprocess
import sys

import pytest

from isobit.backends.device import standalone as module
from isobit.backends.device.standalone import standalone

FILES = {
    "backends/lowest.py": '"""Lowest."""\n\nfrom __future__ import annotations\n\nimport json\n\n'
    "EMPTY = json.dumps({})\n",
    "backends/left.py": '"""Left."""\n'
    'from isobit.backends.lowest import EMPTY\n\n\ndef left():\n    return EMPTY + "l"\n',
    "backends/right.py": '"""Right."""\nimport json\n\nfrom isobit.backends.lowest import EMPTY\n\n'
    "RIGHT = json.loads(EMPTY)\n",
    "backends/script.py": '"""Script:\n\na \\\\ and more."""\n\nfrom __future__ import annotations\n\nimport sys\n\n'
    "import numpy as np\n\nfrom isobit.backends.left import left\n"
    "from isobit.backends.right import RIGHT\n\n# A reason.\n"
    "print(left(), RIGHT, np.int8(3), len(sys.argv), __doc__)\n",
}


@pytest.fixture
def script(tmp_path, monkeypatch):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(module, "_ROOT", tmp_path)
    return tmp_path / "backends" / "script.py"


def test_the_file_runs_without_what_it_imported(script, tmp_path):
    alone = tmp_path / "elsewhere" / "run.py"
    alone.parent.mkdir()
    alone.write_text(standalone(script))
    done = subprocess.run([sys.executable, "-I", alone], cwd=alone.parent, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("{}l {} 3 1 Script:\n\na \\ and more.\n", "")


def test_every_module_stands_once_after_what_it_needs_and_imports_are_at_the_top(script):
    text = standalone(script)
    assert text.count("EMPTY = json.dumps") == 1 and text.count("import json\n") == 1 and "# A reason." in text
    order = ("EMPTY = json.dumps", "def left()", "RIGHT = ", "print(left")
    assert [text.index(part) for part in order] == sorted(text.index(part) for part in order)
    assert "backends" not in text and "Lowest" not in text
    assert text.splitlines()[2:8] == [
        'a \\\\ and more."""', "", "from __future__ import annotations", "", "import os", "import sys"
    ]
    nodes = ast.parse(text).body[1:]
    before = ("from __future__ import annotations", "import os", "import sys", "if __name__", "def on_error",
              "if __name__")
    assert [ast.unparse(node).startswith(start) for node, start in zip(nodes, before, strict=False)] == [True] * 6
    assert "del sys.path[0]" in ast.unparse(nodes[3]) and "sys.excepthook" in ast.unparse(nodes[5])
    kinds = [isinstance(node, ast.Import | ast.ImportFrom | ast.Try) for node in nodes[6:]]
    assert kinds == sorted(kinds, reverse=True)


@pytest.mark.parametrize("line", ["EMPTY, other = 1, 2", "class EMPTY:\n    pass", "def EMPTY():\n    return 1"])
def test_a_name_that_two_modules_define_is_refused(script, line):
    left = script.parent / "left.py"
    left.write_text(left.read_text().replace("import EMPTY", "import EMPTY as none") + "\n\n" + line + "\n")
    with pytest.raises(ValueError, match=r"EMPTY: defined by two modules of the script script\.py"):
        standalone(script)


def test_who_imports_it_keeps_the_path(script, tmp_path):
    (tmp_path / "predict.py").write_text(standalone(script))
    (tmp_path / "helpers.py").write_text("NAME = 'helper'\n")
    (tmp_path / "app.py").write_text("import predict\nimport helpers\nprint(helpers.NAME)\n")
    done = subprocess.run([sys.executable, tmp_path / "app.py"], capture_output=True, text=True)
    assert (done.stderr, done.stdout.splitlines()[-1]) == ("", "helper")


@pytest.mark.parametrize("by", ["folder", "path"])
def test_a_file_beside_it_is_not_read_in_a_package_s_place(script, tmp_path, by):
    alone = tmp_path / "elsewhere" / "run.py"
    alone.parent.mkdir()
    alone.write_text(standalone(script))
    for name in ("numpy.py", "json.py"):
        (alone.parent / name).write_text("raise SystemExit('taken in')\n")
    command = [sys.executable, "run.py" if by == "folder" else alone]
    done = subprocess.run(command, cwd=alone.parent if by == "folder" else tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("{}l {}")


@pytest.mark.parametrize(("word", "printed"), [("FAIL", "FAIL\n"), ("", "")])
def test_a_missing_package_is_told_and_not_traced(tmp_path, word, printed):
    path = tmp_path / "script.py"
    path.write_text('"""Needs something."""\nimport sys\n\nimport of_no_distribution\n\nsys.exit(9)\n')
    (tmp_path / "run.py").write_text(standalone(path, word))
    done = subprocess.run([sys.executable, "-I", tmp_path / "run.py"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout == f"No module named 'of_no_distribution': this script needs it, see its first lines\n{printed}"


@pytest.mark.parametrize("during", ["imports", "the run"])
def test_ctrl_c_ends_it_with_one_line(tmp_path, during):
    stop = "import os, signal\nprint('began', flush=True)\nos.kill(os.getpid(), signal.SIGINT)\n"
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "of_others.py").write_text(stop if during == "imports" else "")
    path = tmp_path / "script.py"
    path.write_text(f'"""It."""\nimport sys\n\nimport of_others\n\n{stop}\nprint("went on", of_others)\n')
    (tmp_path / "run.py").write_text(standalone(path))
    done = subprocess.run([sys.executable, tmp_path / "run.py"], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(tmp_path / "packages")})
    assert (done.returncode, done.stdout) == (130, "began\n")
    assert done.stderr == "interrupted: stopped before the end\n"


def test_any_other_error_keeps_its_traceback(tmp_path):
    path = tmp_path / "script.py"
    path.write_text('"""It."""\nimport sys\n\nprint(sys.argv[9])\n')
    (tmp_path / "run.py").write_text(standalone(path))
    done = subprocess.run([sys.executable, tmp_path / "run.py"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("Traceback") and "IndexError" in done.stderr


def test_the_predictor_of_a_target_has_the_common_part_before_its_own(script, tmp_path):
    module.write_predictor(tmp_path, script)
    assert (tmp_path / "predict.py").read_text() == standalone(script, "")
