"""A process of its own that tests find, or kill, in the middle of its work."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


@contextmanager
def running(program: str, argument: Path, word: str) -> Iterator[subprocess.Popen[str]]:
    """A Python program in this checkout that was given `argument` and has printed `word`; killed afterwards."""
    command = [sys.executable, "-c", program, str(argument)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == f"{word}\n"
        yield process
    finally:
        process.kill()
        process.communicate()
