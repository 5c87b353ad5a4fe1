"""What enters the model: its shape, as far as it is known before any data is read, and the two sets of samples."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torchvision
from torch import nn

from isobit.pipeline.errors import InputError
from isobit.pipeline.model.architectures import ARCHITECTURES, INPUT_SIDE
from isobit.pipeline.model.modelfile import LoadedModel
from isobit.pipeline.recipe.schema import Recipe
from isobit.pipeline.samples.arrays import WantedInputs, header_count, header_shapes
from isobit.pipeline.samples.classes import read_classes
from isobit.pipeline.samples.coco import is_annotations, read_annotations
from isobit.pipeline.samples.data import Batches, Purpose, check_against_model, open_pool
from isobit.pipeline.samples.images import has_image_name, header_size, list_images
from isobit.pipeline.samples.network_inputs import Inputs, grouped
from isobit.pipeline.samples.user_data import names_a_function, read_user_data
from isobit.pipeline.shapes import known_sizes

Shape = tuple[int, ...]
EVALUATION_BATCH = 64


@dataclass(frozen=True)
class InputSize:
    """The size of images, or a whole shape.

    Args:
        channels: C, where it was named; None is unknown.
        height, width: equal where one number was given.
    """

    channels: int | None
    height: int
    width: int


def image_channels(loaded: LoadedModel, size: InputSize | None) -> Literal[1, 3]:
    """1 or 3: into which kind image files are converted for this model; raises InputError where it takes others."""
    channels = _channels(loaded, size)
    if channels not in (1, 3):
        raise InputError(
            f"the model takes {channels} channels and images have 1 or 3", where="the model's input",
            hint="Give the data as an .npz with x of shape [samples, channels, height, width].",
        )
    return channels


def _channels(loaded: LoadedModel, size: InputSize | None) -> int:
    if size is not None and size.channels is not None:
        return size.channels
    exported = exported_shape(loaded) or ()
    return exported[0] if len(exported) == 3 else _first_layer_channels(loaded.module) or 3


def exported_shape(loaded: LoadedModel) -> Shape | None:
    """The shape of the first input, as an `.onnx` states it, or (C, H, W) as a `.pt2` does; None where neither does."""
    if loaded.origin is not None:
        sizes = loaded.origin.inputs[0].shape[1:]
        return None if None in sizes else known_sizes(sizes)
    value = _first_exported(loaded)
    if value is None or value.dim() != 4 or not all(isinstance(n, int) for n in value.shape[1:]):
        return None
    return tuple(value.shape[1:])


def _first_exported(loaded: LoadedModel) -> torch.Tensor | None:
    """What stands for the first input of a `.pt2`: a tensor without values."""
    if loaded.exported is None:
        return None
    name = next(iter(loaded.exported.graph_signature.user_inputs))
    value = next((node.meta.get("val") for node in loaded.exported.graph.nodes if node.name == name), None)
    return value if isinstance(value, torch.Tensor) else None


def _first_layer_channels(module: nn.Module | None) -> int | None:
    convolutions = (m for m in module.modules() if isinstance(m, nn.Conv2d)) if module is not None else iter(())
    first = next(convolutions, None)
    return None if first is None else first.in_channels


def wanted_inputs(loaded: LoadedModel) -> WantedInputs:
    """The names of the model's inputs, as its file or its `forward` has them; nothing where neither tells."""
    if loaded.origin is not None:
        return WantedInputs(loaded.origin.input_names, len(loaded.origin.inputs))
    if loaded.exported is not None:
        names = tuple(map(str, loaded.exported.graph_signature.user_inputs))
        return WantedInputs(names, len(names))
    if loaded.module is None:
        return WantedInputs()
    try:
        parameters = list(inspect.signature(loaded.module.forward).parameters.values())
    except (TypeError, ValueError):
        return WantedInputs()
    any_others = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters)
    taken = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = sum(parameter.default is parameter.empty for parameter in taken)
    return WantedInputs(tuple(parameter.name for parameter in taken), max(1, needed), any_others)


def in_model_order(loaded: LoadedModel, batches: Batches) -> Batches:
    """The same samples with several inputs in the order of the model's, where its names are known.

    Raises:
        InputError: the model needs an input that the samples lack.
    """
    wanted, held = wanted_inputs(loaded), batches.samples.names
    return batches.ordered(wanted.among(held)) if held and (len(wanted.names) > 1 or wanted.any_others) else batches


def input_rank(loaded: LoadedModel, size: InputSize | None) -> int | None:
    """Dimensions of the model's first input, the batch's included; None where nothing tells."""
    if size is not None and size.channels is not None:
        return 4
    if loaded.origin is not None:
        return len(loaded.origin.inputs[0].shape)
    value = _first_exported(loaded)
    if value is not None:
        return value.dim()
    ranks = {nn.Conv1d: 3, nn.Conv2d: 4, nn.Conv3d: 5}
    layers = loaded.module.modules() if loaded.module is not None else iter(())
    first = next((layer for layer in layers if type(layer) in (*ranks, nn.Embedding, nn.Linear)), None)
    return None if first is None else ranks.get(type(first))


def shape_without_data(
    loaded: LoadedModel, options: ImageOptions, data: Path | None, argument: str = "calibration"
) -> InputShape:
    """The shapes of the inputs, and where they are from. Of `data` one header is read, or one item of a user's
    function, and only where nothing else tells.

    Args:
        options: whose size is the model's.
        data: what `argument` is.

    Raises:
        InputError: nothing tells; says which argument would.
    """
    size = options.fitted_size
    if loaded.origin is not None and all(None not in port.shape[1:] for port in loaded.origin.inputs):
        declared = [known_sizes(port.shape[1:]) for port in loaded.origin.inputs]
        return InputShape.of_several(declared, [port.dtype for port in loaded.origin.inputs], "the .onnx file")
    if data is not None and names_a_function(data):
        samples, _ = read_user_data(data, argument, wanted_inputs(loaded), input_rank(loaded, options.size), most=1)
        example = [torch.from_numpy(array) for array in samples.inputs.values()]
        return InputShape.of_several(samples.shapes, [one.dtype for one in example], f"one sample of `{argument}`")
    if data is not None and not _holds_pictures(data) and len(wanted_inputs(loaded).names) > 1:
        found = header_shapes(data, wanted_inputs(loaded))
        kinds = [torch.from_numpy(np.empty(0, kind)).dtype for _, kind in found]
        return InputShape.of_several([shape for shape, _ in found], kinds, f"one sample of `{argument}`")
    sources: tuple[tuple[str, Callable[[], Shape | None]], ...] = (
        (f"`{options.size_argument}`", lambda: (_channels(loaded, size), size.height, size.width) if size else None),
        ("the .pt2 file", lambda: exported_shape(loaded)),
        (f"one sample of `{argument}`",
         lambda: peek_shape(data, _channels(loaded, size), options.pictures) if data else None),
        ("torchvision's default", lambda: _torchvision_shape(loaded)),
    )
    for source, look in sources:
        shape = look()
        if shape is not None:
            return InputShape(shape, source)
    raise InputError(
        "the shape of the model's input is not known", where=f"'{loaded.name}', without a sample",
        field="input_size",
        allowed=f"`input_size=channels,height,width`, or `{argument}`, of which one header is read",
        hint="For example `input_size=3,224,224`",
    )


def _torchvision_shape(loaded: LoadedModel) -> Shape | None:
    if loaded.arch in ARCHITECTURES:
        return (_channels(loaded, None), INPUT_SIDE, INPUT_SIDE)
    known = torchvision.models.list_models(module=torchvision.models)
    if loaded.arch not in known:
        return None
    weights = torchvision.models.get_model_weights(loaded.arch)
    side = next(iter(weights)).transforms().crop_size[0]
    return (_channels(loaded, None), side, side)


def samples_at(data: Path, wanted: WantedInputs, pictures: Path | None = None) -> int | None:
    """How many samples there are, from names or a header alone; None of a user's function, and
    where nothing is there yet.

    Raises:
        InputError: there are none that can be used.
    """
    if names_a_function(data) or not data.exists():
        return None
    if is_annotations(data):
        return len(read_annotations(data, pictures).files)
    return len(list_images(data).files) if data.is_dir() else header_count(data, wanted)


def peek_shape(path: Path, channels: int, pictures: Path | None = None) -> Shape:
    """The shape of the first sample, (C, H, W) of images, from a header alone.

    Raises:
        InputError: nothing there that has one.
    """
    if is_annotations(path):
        said = read_annotations(path, pictures)
        width, height = header_size(said.root / said.files[0])
        return channels, height, width
    if not path.is_dir():
        return header_shapes(path, WantedInputs())[0][0]
    shape = _image_shape(path, channels)
    if shape is None:
        raise InputError("the folder holds no images", where=str(path))
    return shape


def _image_shape(folder: Path, channels: int) -> Shape | None:
    for place, folders, names in os.walk(folder):  # no further than the first: there may be a million after it
        folders.sort()
        first = min(filter(has_image_name, names), default=None)
        if first is not None:
            width, height = header_size(Path(place, first))
            return (channels, height, width)
    return None


@dataclass(frozen=True)
class InputShape:
    """All that is known of the model's inputs where no calibration data is read.

    Args:
        shape: of one sample of the first input, (C, H, W) of images.
        source: what told it.
        more: of the other inputs.
        kinds: the type of each input.
    """

    shape: tuple[int, ...]
    source: str = ""
    more: tuple[tuple[int, ...], ...] = ()
    kinds: tuple[torch.dtype, ...] = (torch.float32,)

    @classmethod
    def of_several(
        cls, shapes: Sequence[tuple[int, ...]], kinds: Sequence[torch.dtype], source: str = ""
    ) -> InputShape:
        """The shape of several inputs, in the model's order."""
        return cls(shapes[0], source, tuple(shapes[1:]), tuple(kinds))

    @property
    def example(self) -> Inputs:
        """Zeros [1, ...] for each input: capture looks at their shape only."""
        shapes = (self.shape, *self.more)
        return grouped([torch.zeros(1, *shape, dtype=kind) for shape, kind in zip(shapes, self.kinds, strict=True)])


# --- the samples ---


@dataclass(frozen=True)
class ImageOptions:
    """How image files become samples.

    Args:
        mean, std: of the training images, in the unit of `pixel_range`: one number or one a channel; None for no
            normalisation.
        size: to which images are resized and centre-cropped; None where they have one size.
        resize: (height, width) to which they are resized without a crop, in place of `size`.
        channels: `rgb`, `bgr` or `gray`; None for what the model takes.
        pixel_range: what the bytes 0 and 255 become before `mean` and `std`.
        classes: a text file with the names of the model's classes in their order.
        pictures: the folder of an annotation file's pictures; None looks beside it.
    """

    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    size: InputSize | None = None
    resize: tuple[int, int] | None = None
    channels: Literal["rgb", "bgr", "gray"] | None = None
    pixel_range: tuple[float, float] = (0.0, 1.0)
    classes: Path | None = None
    pictures: Path | None = None

    @property
    def fitted_size(self) -> InputSize | None:
        """The size that images are brought to, whichever option says it; None for their own."""
        return self.size if self.resize is None else InputSize(self.size and self.size.channels, *self.resize)

    @property
    def size_argument(self) -> str:
        """What the library calls the option that says it."""
        return "input_size" if self.resize is None else "resize"

    def check(self) -> None:
        """Refuse what can be refused before any data is read.

        Raises:
            InputError: two sizes that differ, or a file of classes that cannot be used.
        """
        if self.resize is not None and self.size is not None and self.resize != (self.size.height, self.size.width):
            raise InputError(
                f"images cannot have both {self.size.height}x{self.size.width} and "
                f"{self.resize[0]}x{self.resize[1]} pixels", field="resize", hint="Give `input_size` or `resize`.",
            )
        if self.classes is not None:
            read_classes(self.classes)


def open_samples(
    loaded: LoadedModel, recipe: Recipe, calibration: Path | None, evaluation: Path | None, options: ImageOptions,
    draw: Callable[[Batches], Batches], most: int | None = None,
) -> tuple[Batches | InputShape, Batches | None, list[str]]:
    """(calibration set, evaluation set, what a user should know about them).

    Args:
        calibration: None where the recipe's source makes the images: then the model's input shape takes their place.
        draw: chooses the calibration set from everything that `calibration` holds; the recipe's source of images.
        most: calibration samples that a user's function is asked for; None for all.

    Raises:
        InputError: what is there cannot be used for this model.
    """
    images = recipe.images
    notes: list[str] = []
    chosen: Batches | InputShape
    if calibration is None:
        chosen = shape_without_data(loaded, options, evaluation, "evaluation")
    else:
        chosen = draw(_opened(loaded, calibration, options, "calib", images.batch_size, notes, most))
    proven = None
    if evaluation is not None:
        proven = _opened(loaded, evaluation, options, "eval", EVALUATION_BATCH, notes).checked()
    notes += _notes([path for path in (calibration, evaluation) if path is not None], options)
    opened = [batches for batches in (chosen, proven) if isinstance(batches, Batches)]
    notes += dict.fromkeys(note for batches in opened for note in batches.notes)
    if isinstance(chosen, Batches) and len(chosen) < images.count:
        notes.append(
            f"{len(chosen):,} calibration samples are there, the recipe asks for up to {images.count:,}: all are taken"
        )
    return chosen, proven, notes


def _opened(
    loaded: LoadedModel, path: Path, options: ImageOptions, purpose: Purpose, batch_size: int, notes: list[str],
    most: int | None = None,
) -> Batches:
    """Everything that is at `path`, as this model takes it; of a user's function at most `most` samples."""
    size, wanted = options.fitted_size, wanted_inputs(loaded)
    if names_a_function(path):
        argument = "calibration" if purpose == "calib" else "evaluation"
        samples, told = read_user_data(path, argument, wanted, input_rank(loaded, options.size), most)
        notes += told
        batches = Batches(samples, tuple(range(len(samples))), batch_size, purpose, path)
    elif not _holds_pictures(path):
        batches = open_pool(path, batch_size=batch_size, purpose=purpose, wanted=wanted)
    else:
        cropped = None if size is None or options.resize is not None else (size.height, size.width)
        batches = open_pool(
            path, channels=options.channels or image_channels(loaded, size), mean=options.mean, std=options.std,
            input_size=cropped, resize=options.resize, pixel_range=options.pixel_range, classes=options.classes,
            pictures=options.pictures, batch_size=batch_size, purpose=purpose,
        )
    if size is not None and len(batches.shapes) == 1:
        check_against_model(batches, [(size.channels or batches.shape[0], size.height, size.width)], None)
    return batches


def _holds_pictures(path: Path) -> bool:
    """Whether data is image files: a folder, or what an annotation file lists."""
    return path.is_dir() or is_annotations(path)


def _notes(paths: list[Path], options: ImageOptions) -> list[str]:
    folders = [path for path in paths if _holds_pictures(path)]
    given = options.mean is not None or options.std is not None
    low, high = options.pixel_range
    scaled = [
        f"`{name}` has a value above 1 ({','.join(map('{:g}'.format, values))}): images are scaled to [0, 1] before "
        "they are normalised, so that 123.7 is written 0.485, or kept as they are by `pixel_range=0..255`"
        for name, values in (("mean", options.mean), ("std", options.std))
        if folders and values is not None and max(values) > 1 and high <= 1
    ]
    if scaled:
        return scaled
    if folders and not given and (low, high) == (0.0, 1.0):
        return ["images are scaled to [0, 1] and not normalised: give `mean` and `std` if the training had them"]
    if given and len(folders) < len(paths):
        return ["`mean` and `std` are for image files; arrays are used as they are"]
    return []
