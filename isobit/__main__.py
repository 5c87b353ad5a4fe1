"""`python -m isobit` is the command `isobit`."""

from __future__ import annotations

from isobit.cli import main

if __name__ == "__main__":
    main("isobit")
