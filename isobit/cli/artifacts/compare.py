"""The command `isobit compare`: artifacts side by side, as a page."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from isobit.cli import options as cli
from isobit.cli.analyze import write_file
from isobit.cli.artifacts.page import PageOut, check_page
from isobit.cli.exits import exit_codes
from isobit.cli.terminal import Terminal, open_console
from isobit.pages.compare import BRAND, compare_page
from isobit.pipeline.errors import InputError

DEFAULT = Path("compare.html")

Folders = Annotated[list[Path], typer.Argument(
    metavar="ARTIFACT...", show_default=False, help="Folders of two or more artifacts.",
)]


def compare(artifacts: Folders, out: PageOut = None, debug: cli.Debug = False) -> None:
    """Draw artifacts side by side on one HTML page: verdicts, accuracy, size, layer by layer."""
    with ExitStack() as stack:
        terminal = Terminal(open_console(sys.stdout), open_console(sys.stderr))
        stack.enter_context(exit_codes(terminal, as_json=False, debug=debug))
        out = out or DEFAULT
        check_page(out, BRAND)
        try:
            page = compare_page(artifacts)
        except (ArithmeticError, ValueError) as error:
            raise InputError(f"an artifact's records hold numbers that no page can show: {error}", field="artifacts",
                             hint="Build the artifact again.") from error
        write_file(out.resolve(), page)
        terminal.results.print(f"wrote {out}", soft_wrap=True, markup=False)
