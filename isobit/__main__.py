"""`python -m isobit` is the command `isobit`."""

from __future__ import annotations

from isobit.cli import app

if __name__ == "__main__":
    app(prog_name="isobit")
