"""Where a page that is drawn of artifacts may be written: over no other file, and into no artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isobit.pipeline.artifact.output import is_artifact
from isobit.pipeline.errors import InputError

BEGINNING = 1 << 16  # bytes of a page with its head and its style

PageOut = Annotated[Path | None, typer.Option(
    "--out", show_default=False, help="The page; one that is there is replaced. Default: compare.html, or "
    "report-NAME.html.",
)]


def check_page(out: Path, brand: str) -> None:
    """Raises InputError where no page may be written: no folder, any other file, and nothing within an artifact."""
    if out.is_dir() or not out.parent.is_dir():
        raise InputError("the page cannot be written", where=str(out), field="out",
                         allowed="a file in a folder that is there")
    if out.exists() and not is_page(out, brand):
        raise InputError(f"the file is there and no page that begins '{brand}'", where=str(out), field="out",
                         hint="Give another `out`.")
    artifact = next((folder for folder in out.resolve().parents if is_artifact(folder)), None)
    if artifact is not None:
        raise InputError("the page would be a file of an artifact", where=str(out), field="out",
                         allowed=f"a file outside {artifact.name}/")


def is_page(path: Path, brand: str) -> bool:
    """The file begins as a page of this brand."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return f'<p class="brand">{brand}</p>'.encode() in file.read(BEGINNING)
