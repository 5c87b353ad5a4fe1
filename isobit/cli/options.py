"""What `isobit build` accepts on its command line: every option once, with its help, and how its text is read.

Numbers that belong together (`--mean`, `--std`, `--input-size`) may stand side by side or be joined by commas, the two
ways that people copy them from a training script.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import torch
import typer
from typer.core import TyperCommand

from isobit import backends
from isobit.backends.base import BACKENDS
from isobit.cli import completion
from isobit.cli.artifacts.repeat import repeatable
from isobit.cli.summary import error_json
from isobit.pipeline.errors import InputError, nearest_spelling
from isobit.pipeline.proof.metrics import metric_names
from isobit.pipeline.recipe.plain_yaml import parse_yaml
from isobit.pipeline.registry import discover
from isobit.pipeline.samples import inputs
from isobit.search import Objective

HELP = """Build an integer artifact from a trained model and prove, code by code, that it computes what was calibrated.

Exit codes: 0 built and proven; 1 a parity or accuracy gate failed; 2 the input, recipe or target cannot be honoured;
3 internal error; 130 stopped by Ctrl-C.

Further commands: `analyze` says which layers suffer at few bits; `compare` draws artifacts side by side; `report` draws
one with its latency; `bench` times several; `verify` checks one, `sign` signs it; `sweep` builds many; `recipes`,
`targets` and `doctor` list what there is; each has its --help. `build` is this one, `./recipes` a file of such a name.
"""
NUMBER_OPTIONS = ("--mean", "--std", "--input-size")
MAX_SIDE, MAX_VALUES = 8192, 1 << 28  # of one input: a network is traced with one in memory
DEVICES = "auto, cpu, cuda, or one of several as cuda:1"
# Of an unknown option too: typer has no name for it.
USAGE_ERROR = cast("type[typer.BadParameter]", typer.BadParameter.__base__)
_DEVICE = re.compile(r"cuda(?::(\d+))?")
RANGES = {"0..255": (0.0, 255.0), "0..1": (0.0, 1.0), "-1..1": (-1.0, 1.0)}
CHANNELS = ("rgb", "bgr", "gray")

discover(backends)
DEFAULT_TARGET, DEFAULT_RECIPE = "onnx", "isobit_w4a8"  # the best in minutes
# Plug-ins are not imported for a help text, and one that is broken breaks nothing here; `isobit targets` has them.
_CHOICES = {name: backend.profiles for name, backend in BACKENDS.loaded().items()}
_PROFILES = "; ".join(f"{name}: {', '.join(profiles)}" for name, profiles in _CHOICES.items() if len(profiles) > 1)

ModelFile = Annotated[Path, typer.Argument(
    metavar="MODEL", show_default=False,
    help="The trained model: .pth/.pt/.safetensors with a state_dict (give --arch) or with {arch, kwargs, state_dict}, "
    "a .pt2 of torch.export.save; .gz of these; or an .onnx.",
)]
Arch = Annotated[str | None, typer.Option(
    help="The network of a bare state_dict: a torchvision name (resnet18), mnasnet2_0, regnet_x_600mf, "
    "package.module:factory, or path/to/file.py:factory. Code is run only where it is named here, never from a file.",
)]
ArchArgs = Annotated[list[str] | None, typer.Option(
    "--arch-args", metavar="KEY=VALUE", help="An argument of what --arch names, repeatable: --arch timm:create_model "
    "--arch-args model_name=ghostnet_100; numbers, texts, true, false, null and [lists] as YAML writes them.",
)]
WeightsKey = Annotated[str | None, typer.Option(
    "--weights", metavar="KEY", show_default=False,
    help="Of a checkpoint that holds several sets of weights, the key of the one to take, as in --weights model_ema. "
    "Without it the first of the usual keys (state_dict, model and so on) is taken, and a note says which.",
)]
RecipeName = Annotated[str, typer.Option(
    autocompletion=completion.recipe_names,
    help=f"A name from recipes/, <method>_w<bits>a<bits>, or a YAML file; default {DEFAULT_RECIPE}.",
)]
TargetName = Annotated[str, typer.Option(
    autocompletion=completion.target_names, help=f"{', '.join(_CHOICES)}; default {DEFAULT_TARGET}.")]
DeviceProfile = Annotated[str | None, typer.Option(
    autocompletion=completion.profile_names,
    help=f"The device that the artifact is for, the first being the default; {_PROFILES}.",
)]
Sets = Annotated[list[str] | None, typer.Option(
    "--set", metavar="KEY=VALUE", autocompletion=completion.edits,
    help="Changes a field of the recipe, repeatable: --set method.steps=500",
)]
Seed = Annotated[int | None, typer.Option(min=0, help="Seed of everything random; default: the recipe's.")]
Out = Annotated[Path | None, typer.Option(
    help="The artifact folder; default artifacts/<model>-<recipe>-<target>.",
)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the artifact that is there.")]
CalibData = Annotated[Path | None, typer.Option(
    metavar="DATA", help="What calibration samples are drawn from: a folder of images (flat, or one subfolder a "
    "class), a COCO .json, .npz/.npy with x (and y) or with an array for each input by its name, or file.py:function, "
    "which gives an iterable of inputs or (inputs, target). A recipe that makes its images (zeroq_w8a8) needs none.",
)]
EvalData = Annotated[Path | None, typer.Option(
    metavar="DATA", help="Samples to prove parity and measure accuracy on, given in the same ways; without labels no "
    "accuracy is measured and the distance to float is judged.",
)]
Mean = Annotated[str | None, typer.Option(
    metavar="R G B", help="Mean of the training images in the unit of --pixel-range: one number or one a channel.",
)]
Std = Annotated[str | None, typer.Option(metavar="R G B", help="Their standard deviation.")]
InputSize = Annotated[str | None, typer.Option(
    metavar="S | C,H,W", help="Resize and centre-crop images to this side; without data also the model's input.",
)]
InputShapes = Annotated[list[str] | None, typer.Option(
    "--input-shape", metavar="[NAME=]1x3xHxW", help="The shape of an input of an .onnx whose sizes are free, or to be "
    "others than it declares; repeatable.",
)]
Outputs = Annotated[list[str] | None, typer.Option(
    "--output", metavar="NAME", help="Keep this output of the network and leave the others out; repeatable.",
)]
Cuts = Annotated[list[str] | None, typer.Option(
    "--cut", metavar="NAME", help="Where integers end, repeatable: a layer, node or output as --dry-run prints it, or "
    "none; what follows is left in float, or out where the target cannot compute it. Default: before what decodes "
    "boxes and scores.",
)]
NoSimplify = Annotated[bool, typer.Option("--no-simplify", help="Take an .onnx without onnxsim's simplification.")]
Resize = Annotated[str | None, typer.Option(
    metavar="HxW", help="Resize images to this height and width without a crop: --resize 240x320.",
)]
Channels = Annotated[str | None, typer.Option(
    metavar="|".join(CHANNELS), autocompletion=completion.one_of(*CHANNELS),
    help="Order of the channels that the model takes: rgb, bgr or gray; default rgb, or "
    "gray where it takes one.",
)]
PixelRange = Annotated[str, typer.Option(
    metavar="|".join(RANGES), autocompletion=completion.one_of(*RANGES),
    help=f"What pixels are scaled to before --mean and --std: {', '.join(RANGES)}.",
)]
ClassNames = Annotated[Path | None, typer.Option(
    "--classes", metavar="FILE", help="The model's classes in the order of its outputs, one a line: name, or id name. "
    "Subfolders are matched by id or name, and some of the classes suffice.",
)]
Pictures = Annotated[Path | None, typer.Option(
    "--images", metavar="DIR", help="The folder of the pictures that a COCO .json lists, or of such folders; default: "
    "the one of the same name beside it.",
)]
AllowFloat = Annotated[bool, typer.Option(
    "--allow-float", help="Operators without an integer kernel run in float where the target can but would refuse them "
    "(tvm, c); the plan names each with its reason. After the last layer they do so without it, and on onnx always.",
)]
DeviceName = Annotated[str, typer.Option(
    autocompletion=completion.devices, help=f"Where calibration runs: {DEVICES}.")]
DryRun = Annotated[bool, typer.Option(
    "--dry-run", help="Check model, recipe and target, show where every layer will run; reads one sample at most.",
)]
Resume = Annotated[bool, typer.Option(
    "--resume", help="Go on after the last unit that an interrupted calibration finished.",
)]
MaxDrop = Annotated[float | None, typer.Option(
    metavar="POINTS", help="Fail (exit code 1) where the artifact loses more than this of the first --metric, in its "
    "unit; without one, top-1 points.",
)]
Metrics = Annotated[list[str] | None, typer.Option(
    "--metric", metavar="NAME", autocompletion=completion.metrics,
    help="What is measured of every stage on --eval-data, repeatable: "
    f"{', '.join(metric_names())}, or file.py:function_or_class.",
)]
DecoderName = Annotated[str | None, typer.Option(
    "--decoder", metavar="file.py:function", help="Makes boxes or a text of the outputs of one sample: for metrics "
    "that read those, and for predict.py.",
)]
ParitySamples = Annotated[int, typer.Option(
    min=1, metavar="N", help="A runtime may run the artifact at several optimisation levels. Every evaluation sample "
    "is compared at the level that is deployed, at most N at each other one; 16 at levels that cannot fail the build.",
)]
MemoryBudget = Annotated[float, typer.Option(
    "--memory", min=0.001, metavar="GB", help="How much memory one batch may take: fewer samples go through the "
    "network at once to keep to it. The model, the samples and what calibration keeps of one unit come on top.",
)]
AnalyzedBits = Annotated[list[str], typer.Option(
    "--bits", metavar="B,B,...", help="Bits of weights and of activations that are measured, with the recipe's own.",
)]
AnalyzedSamples = Annotated[int, typer.Option(
    "--samples", min=1, metavar="N", help="Calibration samples that sensitivities are means over.",
)]
Worst = Annotated[int, typer.Option(min=1, metavar="N", help="Rows shown of each table, worst first.")]
WantedDrop = Annotated[float | None, typer.Option(
    "--max-drop", metavar="POINTS", help="Search the smallest artifact that loses no more: of the first --metric, of "
    "top-1, or of float's choices.",
)]
Minimize = Annotated[str, typer.Option(
    "--minimize", metavar="size|latency", autocompletion=completion.one_of(*get_args(Objective)),
    help="Bytes of weight codes, or latency: measured by bits, shared out by "
    "multiply-accumulates.",
)]
Calibrations = Annotated[int, typer.Option(
    "--calibrations", min=1, max=100, metavar="N", help="Most calibrations by the recipe in a search.",
)]
SavedRecipe = Annotated[Path | None, typer.Option(
    "--save", metavar="NAME.yaml", help="File of the recipe that is found; default <model>-<target>.yaml.",
)]
AnalysisOut = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="File for everything, as JSON.")]
Json = Annotated[bool, typer.Option("--json", help="The summary as one JSON object on stdout.")]
TrustPickle = Annotated[bool, typer.Option(
    "--trust-pickle", help="Load a pickled module, or a .pt2 that is refused: runs whatever code its author put there.",
)]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]


class NumbersSideBySide(TyperCommand):
    """A command whose number options take `0.5 0.5 0.5` as well as `0.5,0.5,0.5`.

    With `--json` a command line that cannot be read is told as JSON as well. The context's `obj` holds the words that
    repeat it.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        as_json = "--json" in args
        try:
            left = super().parse_args(ctx, join_numbers(args))
            ctx.obj = repeatable(self.params, ctx)
            return left
        except USAGE_ERROR as error:
            if as_json:
                summary = error_json(InputError(error.format_message(), where="the command line"))
                print(json.dumps(summary, indent=1))
            raise


def join_numbers(arguments: Sequence[str]) -> list[str]:
    """The arguments, with the numbers after each of `NUMBER_OPTIONS` joined by commas into one argument."""
    joined: list[str] = []
    open_values = False
    for argument in arguments:
        follows = open_values and _is_numbers(argument)
        if follows and joined[-1] not in NUMBER_OPTIONS:
            joined[-1] = f"{joined[-1].rstrip(',')},{argument}"
        else:
            joined.append(argument)
        open_values = follows or argument in NUMBER_OPTIONS
    return joined


def _is_numbers(text: str) -> bool:
    try:
        [float(part) for part in text.rstrip(",").split(",")]
    except ValueError:
        return False
    return True


def parse_numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """`0.5` or `0.485,0.456,0.406` as floats; None stays None; raises InputError where they are no numbers."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"'{text}' is not a list of numbers", where=option, allowed="one number, or one a channel: 0.5,0.5,0.5"
        ) from None


def parse_bits(texts: Sequence[str]) -> tuple[int, ...]:
    """Texts as `2,4,8` as the numbers in all of them; raises InputError for one that is no list of numbers."""
    found: list[int] = []
    for text in texts:
        try:
            found += [int(part) for part in text.split(",")]
        except ValueError:
            raise InputError(f"'{text}' is not a list of bits", where="--bits", field="bits", allowed="2,4,8") from None
    return tuple(found)


def parse_arch_args(texts: Sequence[str] | None) -> dict[str, Any]:
    """`key=value` texts by key, the values as YAML reads them; `None` is none as well.

    Raises:
        InputError: a text that is of another form, or a key that is given twice.
    """
    found: dict[str, Any] = {}
    for text in texts or ():
        key, separator, value = text.partition("=")
        key, where = key.strip(), f"--arch-args {text}"
        if not separator or not key.isidentifier():
            raise InputError("not of the form key=value", where=where, field="arch_args", hint="For example width=0.5")
        if key in found:
            raise InputError(f"'{key}' is given twice", where=where, field="arch_args")
        try:
            found[key] = None if value.strip() == "None" else parse_yaml(value)
        except ValueError as error:
            raise InputError(f"the value cannot be read: {error}", where=where, field="arch_args",
                             allowed="numbers, texts, true, false, null and [lists] as YAML writes them") from error
    return found


def image_options(given: Mapping[str, Any]) -> inputs.ImageOptions:
    """How image files become samples; raises InputError where an option cannot be read.

    Args:
        given: a command's parameters by name.
    """
    images = inputs.ImageOptions(
        parse_numbers("--mean", given["mean"]), parse_numbers("--std", given["std"]),
        parse_input_size(given["input_size"]), parse_resize(given["resize"]), parse_channels(given["channels"]),
        parse_pixel_range(given["pixel_range"]), given["classes"], given["pictures"],
    )
    images.check()
    return images


def parse_input_size(text: str | None) -> inputs.InputSize | None:
    """`224` or `3,224,224`; raises InputError for anything else."""
    if text is None:
        return None
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if len(sizes) not in (1, 3) or min(sizes) < 1 or max(sizes) > MAX_SIDE or math.prod(sizes) > MAX_VALUES:
        raise InputError(
            f"'{text}' is not a size", where="--input-size", field="input_size",
            allowed="a side (224) or channels,height,width (3,224,224)"
        )
    return inputs.InputSize(None, sizes[0], sizes[0]) if len(sizes) == 1 else inputs.InputSize(*sizes)


def parse_resize(text: str | None) -> tuple[int, int] | None:
    """`240x320` as (height, width); raises InputError for anything else."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    height, width = map(int, match.groups()) if match else (0, 0)
    if not 1 <= height <= MAX_SIDE or not 1 <= width <= MAX_SIDE:
        raise InputError(
            f"'{text}' is not a size", where="--resize", field="resize",
            allowed=f"height x width, each 1 to {MAX_SIDE}: 240x320",
        )
    return height, width


def parse_channels(text: str | None) -> Any:
    """One of `CHANNELS`; None stays None; raises InputError for anything else."""
    if text is not None and text not in CHANNELS:
        raise InputError(
            f"there is no order of channels '{text}'", where="--channels", field="channels",
            allowed=", ".join(CHANNELS), hint=nearest_spelling(text.lower(), CHANNELS),
        )
    return text


def parse_pixel_range(text: str) -> tuple[float, float]:
    """One of `RANGES`; raises InputError for anything else."""
    if text not in RANGES:
        raise InputError(
            f"pixels cannot be scaled to '{text}'", where="--pixel-range", field="pixel_range",
            allowed=", ".join(RANGES),
        )
    return RANGES[text]


def resolve_device(text: str) -> str:
    """`cpu`, `cuda` or `cuda:1`, checked to be there; `auto` is the GPU where there is one.

    Raises:
        InputError: no such kind of device, or none at hand.
    """
    if text == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if text == "cpu":
        return text
    match, where = _DEVICE.fullmatch(text), f"--device {text}"
    if match is None:
        raise InputError(
            f"there is no device '{text}'", where=where, allowed=DEVICES,
            hint=nearest_spelling(text.lower(), ("auto", "cpu", "cuda")), field="options.device",
        )
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        built = "no CUDA device answers" if torch.version.cuda else "this PyTorch was built without CUDA"
        raise InputError(
            built, where=where, allowed="auto, cpu", hint="Leave --device away to run on the CPU.",
            field="options.device",
        )
    if match.group(1) is not None and int(match.group(1)) >= count:
        known = ", ".join(f"cuda:{index}" for index in range(count))
        raise InputError(
            f"there are {count} CUDA device(s)", where=where, allowed=f"auto, cpu, {known}", field="options.device",
        )
    return text


def recipe_edits(sets: Sequence[str] | None, seed: int | None) -> list[str]:
    """All `--set` texts, `--seed` after them as one more."""
    return [*(sets or ()), *(() if seed is None else (f"seed={seed}",))]


def default_out(model: str, recipe: str, target: str) -> Path:
    """Where an artifact goes unless `--out` says otherwise."""
    return Path("artifacts") / f"{model}-{recipe}-{target}"


def plain_out(out: Path) -> Path:
    """The same place by a path that ends with a name: another folder can be named beside it."""
    return out.resolve() if out.name in ("", "..") else out
