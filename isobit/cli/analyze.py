"""The command `isobit analyze`: options in, what every layer and activation does at few bits out."""

from __future__ import annotations

import json
import re
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import typer

from isobit.analyze import BITS, SAMPLES, Analysis, check_bits, measured, open_subject
from isobit.backends.base import BACKENDS
from isobit.build import check_recipe
from isobit.cli import options as cli
from isobit.cli.analysis import analysis_json, heading, layer_table, search_json, search_lines, tensor_table
from isobit.cli.build import ModelRequest, check_data, library_options, model_request, open_both
from isobit.cli.exits import exit_codes
from isobit.cli.own_stdout import own_stdout
from isobit.cli.terminal import Terminal, open_console
from isobit.judge import hold_back
from isobit.pipeline.artifact.timings import TimedStages
from isobit.pipeline.errors import ExitCode, InputError
from isobit.pipeline.memory import GIGABYTE
from isobit.pipeline.proof.measures import find_measures
from isobit.pipeline.recipe.extension import short_text
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.recipe.names import bits_in_name
from isobit.pipeline.recipe.schema import NAME_PATTERN, Recipe
from isobit.pipeline.samples.batching import BUDGET
from isobit.pipeline.samples.inputs import ImageOptions
from isobit.result import Options
from isobit.search import CALIBRATIONS, Objective, Search, search

ALL_BITS = [",".join(map(str, BITS))]


@dataclass(frozen=True)
class Request:
    """What one command line asks for, beside the model.

    Args:
        target: its name.
        images: how image files become samples.
        calib_data, eval_data: None where they are not given.
        worst: rows of a table.
        out: the file for everything; None for none.
        as_json: one object on stdout in place of the screen.
        save: the file for the recipe that a search finds; None where no drop is wanted.
        calibrations: that the search may take.
        minimize: what it makes small.
        recipe_name, edits: how the recipe was given.
    """

    recipe: Recipe
    target: str
    images: ImageOptions
    calib_data: Path | None
    eval_data: Path | None
    bits: tuple[int, ...]
    samples: int
    worst: int
    out: Path | None
    options: Options
    as_json: bool
    save: Path | None
    calibrations: int
    minimize: Objective
    recipe_name: str
    edits: tuple[str, ...]


def analyze(
    context: typer.Context,
    model: cli.ModelFile,
    arch: cli.Arch = None,
    arch_args: cli.ArchArgs = None,
    weights: cli.WeightsKey = None,
    recipe: cli.RecipeName = cli.DEFAULT_RECIPE,
    target: cli.TargetName = cli.DEFAULT_TARGET,
    device_profile: cli.DeviceProfile = None,
    sets: cli.Sets = None,
    seed: cli.Seed = None,
    calib_data: cli.CalibData = None,
    eval_data: cli.EvalData = None,
    mean: cli.Mean = None,
    std: cli.Std = None,
    input_size: cli.InputSize = None,
    input_shape: cli.InputShapes = None,
    no_simplify: cli.NoSimplify = False,
    output: cli.Outputs = None,
    cut: cli.Cuts = None,
    resize: cli.Resize = None,
    channels: cli.Channels = None,
    pixel_range: cli.PixelRange = "0..1",
    classes: cli.ClassNames = None,
    pictures: cli.Pictures = None,
    bits: cli.AnalyzedBits = ALL_BITS,
    samples: cli.AnalyzedSamples = SAMPLES,
    worst: cli.Worst = 10,
    max_drop: cli.WantedDrop = None,
    minimize: cli.Minimize = "size",
    calibrations: cli.Calibrations = CALIBRATIONS,
    save: cli.SavedRecipe = None,
    out: cli.AnalysisOut = None,
    overwrite: cli.Overwrite = False,
    allow_float: cli.AllowFloat = False,
    device: cli.DeviceName = "auto",
    metric: cli.Metrics = None,
    decoder: cli.DecoderName = None,
    memory: cli.MemoryBudget = BUDGET / GIGABYTE,
    as_json: cli.Json = False,
    trust_pickle: cli.TrustPickle = False,
    debug: cli.Debug = False,
) -> None:
    """Say which layers and activations suffer at few bits: noise, answers, the task's metric, each alone in float."""
    given = {**context.params, "model": model, "classes": classes, "pictures": pictures}
    with ExitStack() as stack:
        stdout = stack.enter_context(own_stdout()) if as_json else sys.stdout
        terminal = Terminal(open_console(stdout), open_console(sys.stderr))
        stack.enter_context(exit_codes(terminal, as_json=as_json, debug=debug))
        edits, found = cli.recipe_edits(sets, seed), saved_at(model, target, max_drop, save)
        check_recipe(chosen := load_recipe(recipe, edits))
        check_files(out, found, overwrite)
        request = Request(
            chosen, BACKENDS.get(target).name, cli.image_options(given), calib_data, eval_data,
            check_bits(cli.parse_bits(bits)), samples, worst, out, library_options(given), as_json, found, calibrations,
            parse_minimize(minimize), recipe, tuple(edits))
        _analyze(terminal, model_request(given), request)


def _analyze(terminal: Terminal, model: ModelRequest, request: Request) -> None:
    """Read the samples, measure, search where a drop is wanted, show what came out.

    Raises:
        typer.Exit: nothing that was tried passes.
    """
    find_measures(request.options.metrics, request.options.decoder)
    if not model.path.exists():
        model.load()  # says so, before anything is said of the data
    check_data(request.recipe, request.calib_data)
    terminal.stage("load")
    loaded = model.load()
    calibration, evaluation, notes = open_both(
        loaded, request.recipe, request.images, request.calib_data, request.eval_data)
    for note in notes:
        terminal.note(note)
    watcher, judge, found = TimedStages(terminal), None, None
    subject = open_subject(loaded, request.recipe, request.target, calibration, evaluation, request.options, watcher)
    if request.save is not None:
        subject, judge = hold_back(subject)
    analysis = measured(subject, request.bits, request.samples, watcher)
    if request.save is not None and judge is not None:
        found = search(subject, judge, analysis, watcher, wanted=request.save.stem, minimize=request.minimize,
                       calibrations=request.calibrations)
        write_file(request.save, short_text(found.recipe, request.recipe_name, request.edits))
    _show(terminal, analysis, found, request)
    if found is not None and not found.passed:
        raise typer.Exit(int(ExitCode.GATE_FAILED))


def _show(terminal: Terminal, analysis: Analysis, found: Search | None, request: Request) -> None:
    """The tables and what a search found, or all of it as one JSON object; the file of `--out`."""
    summary = analysis_json(analysis, terminal.seconds)
    if found is not None:
        summary |= search_json(found, request.save)
    if request.out is not None:
        write_file(request.out, json.dumps(summary, indent=1) + "\n")
        terminal.note(f"everything that was measured is in {request.out}")
    if request.as_json:
        terminal.show_json(summary)
        return
    tables = [layer_table(analysis, request.worst), tensor_table(analysis, request.worst)]
    terminal.show_tables(heading(analysis), tables, analysis.notes)
    if found is not None:
        terminal.show_lines(search_lines(found, request.save))


def parse_minimize(text: str) -> Objective:
    """`size` or `latency`; raises InputError for anything else."""
    for known in get_args(Objective):
        if text == known:
            return known
    raise InputError(f"nothing called '{text}' can be made small", field="minimize",
                     allowed=", ".join(get_args(Objective)))


def saved_at(model: Path, target: str, max_drop: float | None, save: Path | None) -> Path | None:
    """Where the recipe of a search goes; None where there is no search."""
    return None if max_drop is None else save or Path(f"{model.stem}-{target}.yaml")


def check_files(out: Path | None, save: Path | None, overwrite: bool) -> None:
    """Raises InputError where a file cannot be written, before any time is spent on what goes into it."""
    for path, field in ((out, "analysis"), (save, "save")):
        if path is None:
            continue
        if path.is_dir():
            raise InputError(f"'{path}' is a folder", field=field, allowed="the path of a file")
        if path.exists() and not overwrite:
            raise InputError(f"the file '{path}' exists", field=field, hint="`options.overwrite` replaces it.")
        if not path.parent.is_dir():
            raise InputError(f"there is no folder '{path.parent}'", field=field, hint="Make it first.")
    if save is not None and save.suffix.lower() not in (".yaml", ".yml"):
        raise InputError(f"'{save}' is no recipe file", field="save", allowed="a path that ends with .yaml")
    if save is not None and (not re.fullmatch(NAME_PATTERN, save.stem) or bits_in_name(save.stem)):
        raise InputError(f"'{save.stem}' cannot be the name of a recipe of mixed bits", field="save",
                         allowed="letters, digits, '_', '.' and '-', and no bits as in qdrop_w4a8")


def write_file(path: Path, text: str) -> None:
    """The text as the file of that path, complete or not at all; raises InputError where it cannot be written."""
    if not path.name:
        raise InputError(f"'{path}' cannot be written: it is a directory", where=str(path))
    beside = path.with_name(f".{path.name}.part")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise InputError(f"'{path}' cannot be written: {error.strerror}", where=str(path)) from error
