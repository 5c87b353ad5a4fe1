"""The command line: `isobit`, and `python compile.py` in a checkout, are this one command."""

from __future__ import annotations

from isobit.cli.app import app
from isobit.pipeline.memory import keep_freed_memory

__all__ = ["app", "main"]


def main(program: str | None = None) -> None:
    """Run the command line of this process, which is called `program`, and end it with the exit code."""
    keep_freed_memory()
    app(prog_name=program)
