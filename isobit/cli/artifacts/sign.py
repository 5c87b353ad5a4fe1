"""The command `isobit sign`: an artifact's folder signed with a key."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from isobit.cli import options as cli
from isobit.cli.exits import exit_codes
from isobit.cli.terminal import Terminal, open_console
from isobit.pipeline.artifact.manifest import read_manifest
from isobit.pipeline.artifact.signature import sign as write_signature

Folder = Annotated[Path, typer.Argument(metavar="ARTIFACT", show_default=False, help="The folder of an artifact.")]
Key = Annotated[Path, typer.Option("--key", show_default=False, metavar="FILE", help=(
    "An elliptic private key (PEM): openssl ecparam -name prime256v1 -genkey -noout -out key.pem"))]


def sign(artifact: Folder, key: Key, debug: cli.Debug = False) -> None:
    """Sign an artifact: all its files, the certificate of what was proven among them. `isobit verify --key` checks it.
    """
    with ExitStack() as stack:
        terminal = Terminal(open_console(sys.stdout), open_console(sys.stderr))
        stack.enter_context(exit_codes(terminal, as_json=False, debug=debug))
        read_manifest(artifact)
        terminal.results.print(f"wrote {write_signature(artifact, key)}", soft_wrap=True, markup=False)
        terminal.note(f"openssl ec -in {key} -pubout -out key.pub writes the key with which others check it: "
                      f"isobit verify {artifact} --key key.pub")
