"""`python -m isobit` is the command of that name."""

import subprocess
import sys


def test_the_module_is_the_command(tmp_path):
    for words, title in (((), "Usage: isobit"), (("targets",), "Usage: isobit targets")):
        done = subprocess.run([sys.executable, "-m", "isobit", *words, "--help"], capture_output=True, text=True,
                              env={"COLUMNS": "100"})  # fmt: skip
        assert done.returncode == 0 and done.stdout.lstrip().startswith(title), done.stdout + done.stderr
