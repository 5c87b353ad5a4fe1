"""The command `isobit bench`: artifacts and float models timed in turns."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from isobit.backends.device.timing import ROUNDS, conditions
from isobit.bench.candidates import candidates
from isobit.bench.measure import SECONDS, Settings, measure
from isobit.bench.peers import PEERS
from isobit.bench.plot import check_plot, write_plot
from isobit.cli import options as cli
from isobit.cli.analyze import write_file
from isobit.cli.exits import exit_codes
from isobit.cli.tables import Row, show_table
from isobit.cli.terminal import Terminal, open_console, shown
from isobit.pipeline.errors import InputError

Timed = Annotated[list[Path], typer.Argument(metavar="FOLDER|MODEL...", show_default=False, help=(
    "Folders of artifacts, and models as they are: float .onnx files, .tflite files. Ratios are over the first."))]
Threads = Annotated[int, typer.Option(min=1, metavar="N", help=(
    "Threads of each. On one, CPU time is measured; on several, the time that passes."))]
Batch = Annotated[int, typer.Option(min=1, metavar="N", help=(
    "Samples at once; what takes one at a time computes them one after the other."))]
Rounds = Annotated[int, typer.Option(min=1, metavar="N", help="Rounds of taking turns.")]
Seconds = Annotated[float, typer.Option(min=0.0, max=86400.0, metavar="S", help=(
    "How long each one runs, all rounds together; once a round at least."))]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", show_default=False, help=(
    "Also write everything there, with processor, packages and hashes."))]
Plot = Annotated[Path | None, typer.Option("--plot", metavar="FILE.png|svg", show_default=False, help=(
    "Also draw a bar for each; needs matplotlib."))]
Peers = Annotated[str | None, typer.Option(metavar="all|NAME,...", show_default=False, help=(
    f"Also time what other tools make of the first float .onnx: {', '.join(PEERS)}; 'all' takes those installed."))]


def bench(
    timed: Timed, threads: Threads = 1, batch: Batch = 1, rounds: Rounds = ROUNDS, seconds: Seconds = SECONDS,
    json_file: JsonFile = None, plot: Plot = None, peers: Peers = None, debug: cli.Debug = False,
) -> None:
    """Time artifacts, float models and what other tools make of those, in turns, on random inputs."""
    with ExitStack() as stack:
        terminal = Terminal(open_console(sys.stdout), open_console(sys.stderr))
        stack.enter_context(exit_codes(terminal, as_json=False, debug=debug))
        for path, name in ((json_file, "json"), (plot, "plot")):
            if path is not None and (path.is_dir() or not path.parent.is_dir()):
                raise InputError("the file cannot be written", where=str(path), field=name,
                                 allowed="a file in a folder that is there")
        if plot is not None:
            check_plot(plot)
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="isobit-bench-")))
        terminal.current = "time"
        found = measure(candidates(timed, peers, folder), Settings(threads, batch, rounds, seconds))
        show_table(terminal.results, [Row(tuple(map(shown, row))) for row in found.rows()], found.columns())
        base = [] if found.candidates[0].name == found.base else [f"ratios are over {found.base}, the first that runs"]
        terminal.show_lines([conditions(threads, batch, rounds), *base,
                             *(f"{name}: not measured: {why}" for name, why in found.missing.items())])
        if json_file is not None:
            write_file(json_file.resolve(), json.dumps(found.to_json(), indent=1) + "\n")
        if plot is not None:
            write_plot(found, plot)
        if found.failed:  # last, as the rest is worth having
            raise InputError("not all that was asked for could be measured", where=", ".join(found.failed),
                             hint="The lines above say why; leave out what cannot run here.")
