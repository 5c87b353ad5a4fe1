"""`make demo` as it is written: its commands run in order, in a folder of their own, with few epochs and steps."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sklearn", reason="the demo trains on scikit-learn's digits")
ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.onnxruntime
@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_the_commands_of_the_demo_run(tmp_path):
    listed = subprocess.run(
        ["make", "--dry-run", "demo", f"VENV={Path(sys.executable).parents[1]}", "DEMO_STEPS=10"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.replace("\\\n", " ")
    commands = [line for line in listed.splitlines() if "bin/python" in line and "environment.sh" not in line]
    assert [command.split()[1] for command in commands] == [
        "tools/make_checkpoints.py", "compile.py", "artifacts/digits-demo/run.py",
    ]
    for command in commands:
        here = command.replace("build/demo", f"{tmp_path}/demo").replace("artifacts/digits-demo", f"{tmp_path}/built")
        here += " --epochs 2" if "make_checkpoints" in here else ""
        done = subprocess.run(["bash", "-c", here], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr + done.stdout
    assert "PASS" in done.stdout
