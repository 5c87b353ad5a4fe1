"""The command `isobit compare`: artifacts side by side, as a page."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from isobit.cli import options as cli
from isobit.cli.analyze import write_file
from isobit.cli.exits import exit_codes
from isobit.cli.terminal import Terminal, open_console
from isobit.pages.compare import BRAND, compare_page
from isobit.pipeline.artifact.output import is_artifact
from isobit.pipeline.errors import InputError

BEGINNING = 1 << 16  # bytes of a page with its head and its style

Folders = Annotated[list[Path], typer.Argument(
    metavar="ARTIFACT...", show_default=False, help="Folders of two or more artifacts.",
)]
PageOut = Annotated[Path, typer.Option("--out", help="The page; one that is there is replaced.")]


def compare(artifacts: Folders, out: PageOut = Path("compare.html"), debug: cli.Debug = False) -> None:
    """Draw artifacts side by side on one HTML page: verdicts, accuracy, size, layer by layer."""
    with ExitStack() as stack:
        terminal = Terminal(open_console(sys.stdout), open_console(sys.stderr))
        stack.enter_context(exit_codes(terminal, as_json=False, debug=debug))
        check_page(out)
        try:
            page = compare_page(artifacts)
        except (ArithmeticError, ValueError) as error:
            raise InputError(f"an artifact's records hold numbers that no page can show: {error}", field="artifacts",
                             hint="Build the artifact again.") from error
        write_file(out.resolve(), page)
        terminal.results.print(f"wrote {out}", soft_wrap=True, markup=False)


def check_page(out: Path) -> None:
    """Raises InputError where no page may be written: no folder, any other file, and nothing within an artifact."""
    if out.is_dir() or not out.parent.is_dir():
        raise InputError("the page cannot be written", where=str(out), field="out",
                         allowed="a file in a folder that is there")
    if out.exists() and not is_page(out):
        raise InputError("the file is there and no page of `isobit compare`", where=str(out), field="out",
                         hint="Give another --out.")
    artifact = next((folder for folder in out.resolve().parents if is_artifact(folder)), None)
    if artifact is not None:
        raise InputError("the page would be a file of an artifact", where=str(out), field="out",
                         allowed=f"a file outside {artifact.name}/")


def is_page(path: Path) -> bool:
    """The file begins as a page of `isobit compare`."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return f'<p class="brand">{BRAND}</p>'.encode() in file.read(BEGINNING)
