"""The command `isobit verify`: what was certified of an artifact, checked again from its files."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from isobit.backends.base import BACKENDS
from isobit.backends.device.standalone import standalone
from isobit.backends.onnx.device import verify as script_module
from isobit.cli import options as cli
from isobit.cli.analyze import write_file
from isobit.cli.exits import exit_codes
from isobit.cli.terminal import Terminal, open_console
from isobit.pipeline.artifact.certificate import verify as check
from isobit.pipeline.artifact.manifest import read_manifest
from isobit.pipeline.artifact.signature import signature_problem
from isobit.pipeline.errors import ExitCode, InputError

Folder = Annotated[Path, typer.Argument(metavar="ARTIFACT", show_default=False, help="The folder of an artifact.")]
Script = Annotated[Path | None, typer.Option("--script", show_default=False, metavar="FILE", help=(
    "Also write the same check as a script that needs numpy and onnx alone, for another machine."))]

Key = Annotated[Path | None, typer.Option("--key", show_default=False, metavar="FILE", help=(
    "The public key (PEM) of whoever must have signed it."))]


def verify(artifact: Folder, key: Key = None, script: Script = None, debug: cli.Debug = False) -> None:
    """Check an artifact's certificate: all hashes, the rules that its build was held to, and of ONNX files the sums and
    thresholds of layers between integers, worked out anew. With a key also who signed it.
    """
    with ExitStack() as stack:
        terminal = Terminal(open_console(sys.stdout), open_console(sys.stderr))
        stack.enter_context(exit_codes(terminal, as_json=False, debug=debug))
        if not artifact.is_dir():
            raise InputError("there is no such folder", where=str(artifact), field="artifact")
        if script is not None:
            write_file(script.resolve(), standalone(Path(script_module.__file__)))
            terminal.note(f"wrote {script}, which needs numpy and onnx: python {script} {artifact}")
        target = read_manifest(artifact).target.name
        try:
            said, problems = check(artifact, BACKENDS.get(target).derive)
        except ValueError as error:
            said, problems = [], [str(error)]
        if key is not None:
            unsigned = signature_problem(artifact, key)
            problems += [unsigned] if unsigned else []
            said += [] if unsigned else [f"signed by the owner of {key}"]
        for line in [*said, *problems, "FAIL" if problems else "PASS"]:
            terminal.results.print(line, soft_wrap=True, markup=False, highlight=False)
        if problems:
            raise typer.Exit(int(ExitCode.GATE_FAILED))
