"""The command `isobit report`: an artifact's page drawn again, with the times that its build measured."""

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
from isobit.pages.artifact import open_artifact
from isobit.pages.report import BRAND, report_page
from isobit.pipeline.artifact.timings import read_latency
from isobit.pipeline.errors import InputError

Folder = Annotated[Path, typer.Argument(metavar="ARTIFACT", show_default=False, help="The folder of an artifact.")]


def report(artifact: Folder, out: PageOut = None, debug: cli.Debug = False) -> None:
    """Draw the page of an artifact with its latency beside float, which the page inside must not hold."""
    with ExitStack() as stack:
        terminal = Terminal(open_console(sys.stdout), open_console(sys.stderr))
        stack.enter_context(exit_codes(terminal, as_json=False, debug=debug))
        out = out or Path(f"report-{artifact.resolve().name}.html")
        check_page(out, BRAND)
        opened, latency = open_artifact(artifact), read_latency(artifact)
        try:
            page = report_page(opened, latency)
        except (ArithmeticError, ValueError) as error:
            raise InputError(f"the artifact's records hold numbers that no page can show: {error}", field="artifact",
                             hint="Build the artifact again.") from error
        write_file(out.resolve(), page)
        if latency is None:
            terminal.note("the build measured no latency; its screen said why")
        terminal.results.print(f"wrote {out}", soft_wrap=True, markup=False)
