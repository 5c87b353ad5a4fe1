"""The command line: `isobit`, and `python compile.py` in a checkout, are this one command."""

from __future__ import annotations

from isobit.cli.app import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line of this process and end it with the exit code."""
    app()
