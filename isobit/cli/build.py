"""The command `isobit build`: options in, a build or a dry run, the final screen and the exit code out."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import typer

from isobit.backends.base import BACKENDS, Backend
from isobit.backends.placement import placement_table
from isobit.build import (
    Build,
    GateFailed,
    Options,
    bit_choices,
    budget_notes,
    build_artifact,
    check_recipe,
    plan,
    target_notes,
)
from isobit.calib.estimate import estimate
from isobit.calib.machine import measure_machine
from isobit.calib.methods import check_batch, check_ranks
from isobit.calib.ranks import Served, joined
from isobit.calib.sources import Source, draw, find_source, makes_images
from isobit.cli import options as cli
from isobit.cli.exits import exit_codes
from isobit.cli.own_stdout import own_stdout
from isobit.cli.summary import build_json, build_lines, plan_json
from isobit.cli.terminal import Terminal, open_console
from isobit.pipeline.artifact.output import claim
from isobit.pipeline.errors import InputError
from isobit.pipeline.memory import GIGABYTE
from isobit.pipeline.model.modelfile import LoadedModel, load_model
from isobit.pipeline.proof.measures import find_measures
from isobit.pipeline.proof.verdicts import headlines
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.recipe.schema import Recipe
from isobit.pipeline.samples.batching import BUDGET, plan_memory
from isobit.pipeline.samples.data import Batches
from isobit.pipeline.samples.decoder import load_decoder
from isobit.pipeline.samples.inputs import (
    ImageOptions,
    InputShape,
    open_samples,
    samples_at,
    shape_without_data,
    wanted_inputs,
)
from isobit.pipeline.samples.user_data import names_a_function
from isobit.pipeline.watcher import Quiet

CHECKPOINTS = ".checkpoints"  # beside the output folder

DEFAULT_TAKEN = (
    f"no --recipe is given, so {cli.DEFAULT_RECIPE} is taken: few activation bits buy no speed on most targets; "
    "isobit-fast_w4a8 takes less than half the time, isobit-thorough_w4a8 ten times as much"
)


@dataclass(frozen=True)
class Request:
    """What one command line asks for, beside the model.

    Args:
        recipe_name: as it was given: a file must not lie in the output folder.
        images: how image files become samples.
        calib_data, eval_data: None where they are not given.
        as_json: one object on stdout in place of the screen.
    """

    recipe: Recipe
    recipe_name: str
    backend: Backend
    images: ImageOptions
    calib_data: Path | None
    eval_data: Path | None
    out: Path
    options: Options
    as_json: bool

    @property
    def checkpoints(self) -> Path:
        """Folder of this artifact's, beside it."""
        return checkpoints_of(self.out)


def checkpoints_of(out: Path) -> Path:
    """Where the checkpoints of the artifact `out` lie."""
    return out.parent / CHECKPOINTS / out.name


@dataclass(frozen=True)
class ModelRequest:
    """Which model, and how its file is read; see `load_model`."""

    path: Path
    arch: str | None
    trust_pickle: bool
    weights: str | None
    arch_args: dict[str, Any]
    input_shapes: tuple[str, ...]
    simplify: bool
    outputs: tuple[str, ...] = ()

    def load(self) -> LoadedModel:
        """Read the file."""
        return load_model(
            self.path, self.arch, self.trust_pickle, self.weights, self.arch_args, input_shapes=self.input_shapes,
            simplify=self.simplify, outputs=self.outputs,
        )


def model_request(given: Mapping[str, Any]) -> ModelRequest:
    """Which model a command's parameters say, by their names."""
    return ModelRequest(
        given["model"], given["arch"], given["trust_pickle"], given["weights"],
        cli.parse_arch_args(given["arch_args"]), tuple(given["input_shape"] or ()), not given["no_simplify"],
        tuple(given["output"] or ()),
    )


def library_options(given: Mapping[str, Any], **more: Any) -> Options:
    """What a command's parameters say of a build or an analysis; `more` are fields that only one of them has.

    Raises:
        InputError: there is no such device; the file of the decoder cannot be used.
    """
    decoder = given["decoder"]
    return Options(
        profile=given["device_profile"], device=cli.resolve_device(given["device"]), max_drop=given["max_drop"],
        memory=given["memory"] * GIGABYTE, outputs=tuple(given["output"] or ()), cut=tuple(given["cut"] or ()),
        allow_float=given["allow_float"], metrics=tuple(given["metric"] or ()),
        decoder=None if decoder is None else load_decoder(decoder), **more,
    )


def build(
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
    out: cli.Out = None,
    overwrite: cli.Overwrite = False,
    allow_float: cli.AllowFloat = False,
    device: cli.DeviceName = "auto",
    metric: cli.Metrics = None,
    decoder: cli.DecoderName = None,
    max_drop: cli.MaxDrop = None,
    parity_samples: cli.ParitySamples = 1000,
    memory: cli.MemoryBudget = BUDGET / GIGABYTE,
    dry_run: cli.DryRun = False,
    resume: cli.Resume = False,
    as_json: cli.Json = False,
    trust_pickle: cli.TrustPickle = False,
    debug: cli.Debug = False,
) -> None:
    """See `isobit.cli.options.HELP`."""
    given = {**context.params, "model": model, "classes": classes, "pictures": pictures}
    with ExitStack() as stack:
        stdout = stack.enter_context(own_stdout()) if as_json else sys.stdout
        terminal = Terminal(open_console(stdout), open_console(sys.stderr))
        stack.enter_context(exit_codes(terminal, as_json=as_json, debug=debug))
        chosen, backend = load_recipe(recipe, cli.recipe_edits(sets, seed)), BACKENDS.get(target)
        check_recipe(chosen)
        source = context.get_parameter_source("recipe")
        if source is not None and source.name == "DEFAULT":
            terminal.note(DEFAULT_TAKEN)
        out = cli.plain_out(out or cli.default_out(model.stem, chosen.name, target))
        terminal.checkpoints = checkpoints_of(out)
        options = library_options(
            given, overwrite=overwrite, checkpoints=terminal.checkpoints, resume=resume, parity_samples=parity_samples,
            latency=True, command=context.obj or ())
        find_measures(options.metrics, options.decoder)
        request = Request(
            chosen, recipe, backend, cli.image_options(given), calib_data, eval_data, out, options, as_json)
        (_dry_run if dry_run else _build)(terminal, model_request(given), request)


def _build(terminal: Terminal, model: ModelRequest, request: Request) -> None:
    """Read the samples, build, show what came out.

    Raises:
        typer.Exit: the gate failed.
    """
    recipe, options = request.recipe, request.options
    if not model.path.exists():
        model.load()  # says so, before anything is said of the data
    check_data(recipe, request.calib_data)
    inputs = {
        "MODEL": model.path, "--recipe": Path(request.recipe_name), "--calib-data": request.calib_data,
        "--eval-data": request.eval_data,
    }
    with ExitStack() as claimed:
        ranks, device = claimed.enter_context(joined(options.device))
        check_ranks(recipe, ranks)
        options, told = replace(options, ranks=ranks, device=device), terminal if ranks.leads else Quiet()
        try:
            claimed.enter_context(ranks.led(claim(request.out, options.overwrite, request.checkpoints, inputs)))
        except InputError as error:
            if error.field == "out":  # a mistake in the model or the data is told first: it takes longer to mend
                open_both(model.load(), recipe, request.images, request.calib_data, request.eval_data)
            raise
        told.stage("load")
        loaded = model.load()
        calibration, evaluation, notes = open_both(
            loaded, recipe, request.images, request.calib_data, request.eval_data)
        for note in notes:
            told.note(note)
        try:
            build = build_artifact(
                loaded, recipe, request.backend.name, calibration, evaluation, request.out, options, told
            )
        except GateFailed as failed:
            build = failed.build
        except Served:  # the first process goes on
            return
        _show(terminal, build, request.backend, request.as_json)
        if not build.passed:
            raise typer.Exit(int(GateFailed.exit_code))
        shutil.rmtree(request.checkpoints, ignore_errors=True)
    with contextlib.suppress(OSError):  # of other artifacts beside this one
        request.checkpoints.parent.rmdir()


def open_both(
    loaded: LoadedModel, recipe: Recipe, options: ImageOptions, calib_data: Path | None, eval_data: Path | None
) -> tuple[Batches | InputShape, Batches | None, list[str]]:
    """Both sets of samples, and what a user should know about them; see `open_samples`."""
    images, seed = recipe.images, recipe.seed
    makes, source = makes_images(images), find_source(images)[0]
    whole = isinstance(source, Source) and source.needs  # it chooses from everything, and not the first ones
    calibration, evaluation, notes = open_samples(
        loaded, recipe, None if makes else calib_data, eval_data, options,
        lambda pool: draw(pool, images, seed), None if whole else images.count,
    )
    if makes and calib_data is not None:
        notes.append(f"--calib-data is not read: the recipe's images.source is '{images.source}'")
    return calibration, evaluation, notes


def check_data(recipe: Recipe, calib_data: Path | None) -> None:
    """Raises InputError where the recipe's source draws from data and none is given."""
    if calib_data is None and not makes_images(recipe.images):
        raise InputError(
            f"the method '{recipe.method.name}' needs images, and the source '{recipe.images.source}' draws from data",
            where="--calib-data", field="calibration", hint="Give a folder of images or an .npz; --dry-run needs none. "
            "Or take a recipe whose images are made: --set images.source=distilled",
        )


def _dry_run(terminal: Terminal, model: ModelRequest, request: Request) -> None:
    """Everything that can be refused before data is read, and where every layer will run."""
    terminal.stage("load")
    loaded, options = model.load(), request.options
    shape = shape_without_data(
        loaded, request.images, request.calib_data or request.eval_data,
        "calibration" if request.calib_data or not request.eval_data else "evaluation",
    )
    counts = [request.recipe.images.count or None]
    if request.calib_data is not None and not makes_images(request.recipe.images):
        counts.append(samples_at(request.calib_data, wanted_inputs(loaded), request.images.pictures))
    check_batch(request.recipe, min((count for count in counts if count is not None), default=sys.maxsize))
    quantized = plan(
        loaded, request.recipe, request.backend, shape.example, options.profile, options.outputs, options.allow_float,
        options.cut,
    )
    placement = placement_table(quantized.graph, quantized.target)
    notes = [*loaded.notes, *target_notes(quantized), *budget_notes(quantized, bit_choices(quantized)),
             *(f"{data} is not there yet, and the build needs it" for data in (request.calib_data, request.eval_data)
               if data is not None and not names_a_function(data) and not data.exists())]
    expected, memory = estimate(quantized, machine=measure_machine()), plan_memory(quantized.graph, options.memory)
    if request.as_json:
        terminal.show_json(plan_json(quantized, placement, notes, expected.to_json() | {"memory": memory.to_json()}))
    else:
        terminal.show_plan(quantized, placement, notes, shape.source, f"{expected.text}; {memory.text}")


def _show(terminal: Terminal, build: Build, backend: Backend, as_json: bool) -> None:
    """The final screen, or the final JSON object."""
    if as_json:
        log = build.calibrated.log
        terminal.show_json(
            build_json(
                build.folder, build.manifest, build.parity, build.notes, log, terminal.seconds, build.trainings,
                build.latency,
            )
        )
        return
    lines = build_lines(
        build.folder, build.manifest, build.parity, backend.model_file, backend.device_needs, backend.firmware,
        build.latency)
    terminal.show_build(headlines(build.parity), lines, build.notes)
