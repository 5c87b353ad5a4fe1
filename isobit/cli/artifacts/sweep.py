"""The command `isobit sweep`: a study file in, every cell built once, an index, the best and a page out."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer
from typer.main import get_command

from isobit.cli import options as cli
from isobit.cli.artifacts.repeat import MAY_NAME_FILES
from isobit.cli.build import build
from isobit.cli.exits import Interrupted, exit_codes
from isobit.cli.terminal import Terminal, open_console
from isobit.pages.sweep import sweep_page
from isobit.pipeline.errors import ExitCode, InputError
from isobit.sweep import mlflow_log
from isobit.sweep.best import best_yaml
from isobit.sweep.cells import Cell, cells_of
from isobit.sweep.drive import DONE, FAILED, Driver
from isobit.sweep.engines import ENGINES, Settings, open_engine
from isobit.sweep.folder import Runs, write_whole
from isobit.sweep.hashes import files_sha256
from isobit.sweep.lease import SECONDS
from isobit.sweep.options import Option
from isobit.sweep.process import Task
from isobit.sweep.results import Index, Row
from isobit.sweep.screen import Screen
from isobit.sweep.study import Model, Study, load_study

# Parameters of a build that are axes of the study, or belong to one run.
NOT_OF_MODELS = frozenset({
    "model", "recipe", "sets", "seed", "target", "device_profile", "out", "overwrite", "dry_run", "resume", "as_json",
    "debug",
})
BEST, PAGE = "best.yaml", "sweep.html"
KEEP_UP = 10.0  # seconds between writes of the index while cells are built, or 20 times what one takes

StudyFile = Annotated[Path, typer.Argument(
    metavar="STUDY", show_default=False, help="The study, a YAML file; see docs/sweep.md.")]
EngineName = Annotated[str, typer.Option(metavar="|".join(ENGINES), help="What runs the cells.")]
RunsOut = Annotated[Path, typer.Option("--out", help="The folder of the sweep; several drivers may share it.")]
Jobs = Annotated[int | None, typer.Option(min=1, max=100_000, metavar="N", help="Cells at a time; default: what fits.")]
Address = Annotated[str | None, typer.Option(
    metavar="HOST:PORT", help="A Ray cluster that stands; default: one of this machine for as long as the sweep runs.")]
LogTo = Annotated[str | None, typer.Option(metavar="mlflow", help="Write results to MLflow too, in OUT/mlflow.")]
Listing = Annotated[bool, typer.Option("--list", help="Say which cells there are and what is known of each; no build.")]
LeaseSeconds = Annotated[float, typer.Option(
    "--lease", min=1.0, metavar="S", help="A build on another host that says nothing for so long is dead.")]


def sweep(
    study: StudyFile, engine: EngineName = "local", out: RunsOut = Path("runs"), jobs: Jobs = None,
    address: Address = None, log: LogTo = None, listing: Listing = False, lease: LeaseSeconds = SECONDS,
    debug: cli.Debug = False,
) -> None:
    """Build every cell of a study: models x recipes x targets x seeds. A second call goes on where a first ended."""
    with ExitStack() as stack:
        terminal = Terminal(open_console(sys.stdout), open_console(sys.stderr))
        stack.enter_context(exit_codes(terminal, as_json=False, debug=debug))
        if log not in (None, "mlflow"):
            raise InputError(f"results cannot be written to '{log}'", field="log", allowed="mlflow")
        if log is not None:
            mlflow_log.check()
        terminal.current = "read the study"
        read = load_study(study, model_options())
        for place, model in enumerate(read.models):
            check_words(model, f"models.{place}", study)
        cells, runs = cells_of(read), Runs(out.resolve())
        index = Index(cells, runs)
        if listing:
            show(terminal, index.rows())
            return
        runs.make()
        terminal.current = "sweep"
        settings = Settings(read.content.resources, jobs, address, str(runs.root / "slurm"), dict(read.content.slurm))
        counts = drive(terminal, cells, runs, index, engine, settings, lease)
        rows = write_results(read, index, study.stem)
        if log is not None:
            mlflow_log.log(rows, runs.root, study.stem)
        failed = f", {counts[FAILED]} failed" if counts[FAILED] else ""
        said = f"{counts[DONE]} of {len(cells)} cells are done{failed}"
        terminal.show_lines([said, *_failures(rows), f"look at {out / PAGE}"])
        if counts[FAILED]:
            raise typer.Exit(int(ExitCode.GATE_FAILED))


def drive(
    terminal: Terminal, cells: Sequence[Cell], runs: Runs, index: Index, engine: str, settings: Settings, lease: float
) -> Any:
    """Build what is not done; counts of cells by what became of them."""
    code, opened = files_sha256(), open_engine(engine, settings)

    def task(cell: Cell) -> Task:
        return Task(cell.name, str(runs.root), cell.words, code, settings.resources.cpus,
                    settings.resources.gpus > 0, lease)

    screen = Screen(cells, terminal.events, KeptUp(index))
    try:
        with screen:
            return Driver(cells, runs, opened, screen, task, lease).drive()
    except KeyboardInterrupt:
        raise Interrupted("the sweep was stopped", hint="The same command goes on from here.") from None
    finally:
        opened.close()


class KeptUp:
    """Called often, writes the index now and then: the larger it is, the more seldom."""

    def __init__(self, index: Index) -> None:
        self._index, self._next = index, time.monotonic() + KEEP_UP

    def __call__(self) -> None:
        began = time.monotonic()
        if began >= self._next:
            self._index.write()
            over = time.monotonic()
            self._next = over + max(KEEP_UP, 20 * (over - began))


def write_results(study: Study, index: Index, title: str) -> list[Row]:
    """Index, best and page, of what stands on disk."""
    rows, root = index.write(), index.runs.root
    write_whole(root / BEST, best_yaml(study.content.best, rows))
    write_whole(root / PAGE, sweep_page(title, rows, study.content.best))
    return rows


def model_options() -> dict[str, Option]:
    """What a study may say of a model, read off the command `isobit build`."""
    found, hints = {}, get_type_hints(build)
    for one in _build_command().params:
        if one.name not in NOT_OF_MODELS and one.name is not None and one.name != "help":
            flag = next(text for text in one.opts if text.startswith("--"))
            found[one.name] = Option(
                one.name, flag, repeatable=one.multiple, switch=one.is_flag, joined=flag in cli.NUMBER_OPTIONS,
                path=Path in (hints[one.name], *get_args(hints[one.name])), names_file=flag in MAY_NAME_FILES,
            )
    return found


def parameters(model: Model) -> dict[str, Any]:
    """What `isobit build` is told of a model, by the names of its parameters; files are not looked for."""
    words = [text for word in model.words for text in (word.flag, word.text) if text]
    with _build_command().make_context("isobit build", [str(model.file), *words]) as context:
        return dict(context.params)


def check_words(model: Model, field: str, study: Path) -> None:
    """Raises InputError where the options of a model are none that `isobit build` takes; files are not looked for."""
    try:
        given = parameters(model)
        cli.image_options(given)
        cli.parse_arch_args(given["arch_args"])
    except cli.USAGE_ERROR as error:
        raise InputError(f"'{field}': {error.format_message()}", where=str(study), field=field) from error
    except InputError as error:
        raise InputError(f"'{field}': {error.what}", where=f"{study}, {error.where}", allowed=error.allowed,
                         hint=error.hint, field=field) from error


def show(terminal: Terminal, rows: Sequence[Row]) -> None:
    """What is known of each cell."""
    for row in rows:
        edits = "".join(f" {edit}" for edit in row.edits)
        place = f"{row.model} {row.recipe}{edits} {row.target} {row.profile} {row.seed}"
        terminal.results.print(f"{row.status:7}{place}{f'  {row.error}' if row.error else ''}", soft_wrap=True)
    counts = {word: sum(row.status == word for row in rows) for word in dict.fromkeys(row.status for row in rows)}
    terminal.results.print(", ".join(f"{count} {word}" for word, count in counts.items()), soft_wrap=True)


def _failures(rows: Sequence[Row]) -> list[str]:
    failed = [row for row in rows if row.error]
    lines = [f"  {row.artifact}: {row.error}" for row in failed[:5]]
    return [*lines, *([f"  and {len(failed) - 5} more; --list shows them"] if len(failed) > 5 else []),
            *(["the same command tries them again"] if failed else [])]


def _build_command() -> Any:
    made = typer.Typer(add_completion=False)
    made.command(cls=cli.NumbersSideBySide)(build)
    return get_command(made)
