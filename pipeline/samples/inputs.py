"""What enters the model: its shape, as far as it is known before any data is read, and the two sets of samples."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torchvision
from torch import nn

from isobit.pipeline.errors import InputError
from isobit.pipeline.model.architectures import ARCHITECTURES, INPUT_SIDE
from isobit.pipeline.model.modelfile import LoadedModel
from isobit.pipeline.recipe.schema import Recipe
from isobit.pipeline.samples.arrays import sample_shape
from isobit.pipeline.samples.data import Batches, check_against_model, open_pool
from isobit.pipeline.samples.images import has_image_name, header_size

Shape = tuple[int, int, int]
EVALUATION_BATCH = 64


@dataclass(frozen=True)
class InputSize:
    """The side of square images, or a whole shape; None is unknown.

    Args:
        channels: C, where it was named.
        height, width: equal where one number was given.
    """

    channels: int | None
    height: int
    width: int

    @property
    def side(self) -> int:
        """The side that images are cropped to; raises InputError where they would not be square."""
        if self.height != self.width:
            raise InputError(
                f"images are cropped to squares, not to {self.height} by {self.width}", field="input_size",
                hint="Prepare the images yourself and give an .npz.",
            )
        return self.height


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
    exported = exported_shape(loaded)
    return exported[0] if exported else _first_layer_channels(loaded.module) or 3


def exported_shape(loaded: LoadedModel) -> Shape | None:
    """The shape that a `.pt2` was exported for; None for another file."""
    if loaded.exported is None:
        return None
    name = next(iter(loaded.exported.graph_signature.user_inputs))
    value = next((node.meta.get("val") for node in loaded.exported.graph.nodes if node.name == name), None)
    if not isinstance(value, torch.Tensor) or value.dim() != 4 or not all(isinstance(n, int) for n in value.shape[1:]):
        return None
    _, channels, height, width = value.shape
    return channels, height, width


def _first_layer_channels(module: nn.Module | None) -> int | None:
    convolutions = (m for m in module.modules() if isinstance(m, nn.Conv2d)) if module is not None else iter(())
    first = next(convolutions, None)
    return None if first is None else first.in_channels


def shape_without_data(
    loaded: LoadedModel, size: InputSize | None, data: Path | None, argument: str = "calibration"
) -> InputShape:
    """(C, H, W), and where it is from. Of `data` one header is read, and only where nothing else tells.

    Args:
        data: what `argument` is.

    Raises:
        InputError: nothing tells; says which argument would.
    """
    sources: tuple[tuple[str, Callable[[], Shape | None]], ...] = (
        ("`input_size`", lambda: (_channels(loaded, size), size.height, size.width) if size else None),
        ("the .pt2 file", lambda: exported_shape(loaded)),
        (f"one sample of `{argument}`", lambda: peek_shape(data, _channels(loaded, size)) if data else None),
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


def peek_shape(path: Path, channels: int) -> Shape:
    """(C, H, W) of the first sample, from a header alone.

    Raises:
        InputError: nothing there that has one.
    """
    if not path.is_dir():
        return sample_shape(path)
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
    """All that is known of the model's input where no calibration data is read.

    Args:
        shape: (C, H, W).
        source: what told it.
    """

    shape: tuple[int, ...]
    source: str = ""

    @property
    def example(self) -> torch.Tensor:
        """Zeros, float32 [1, C, H, W]: capture looks at their shape only."""
        return torch.zeros(1, *self.shape)


# --- the samples ---


@dataclass(frozen=True)
class ImageOptions:
    """How image files become samples.

    Args:
        mean, std: of the training images, scaled to [0, 1]: one number or one a channel; None for no normalisation.
        size: to which images are resized and centre-cropped; None where they have one size.
    """

    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    size: InputSize | None = None


def open_samples(
    loaded: LoadedModel, recipe: Recipe, calibration: Path | None, evaluation: Path | None, options: ImageOptions,
    draw: Callable[[Batches], Batches],
) -> tuple[Batches | InputShape, Batches | None, list[str]]:
    """(calibration set, evaluation set, what a user should know about them).

    Args:
        calibration: None where the recipe's source makes the images: then the model's input shape takes their place.
        draw: chooses the calibration set from everything that `calibration` holds; the recipe's source of images.

    Raises:
        InputError: what is there cannot be used for this model.
    """
    images = recipe.images
    chosen: Batches | InputShape
    if calibration is None:
        chosen = shape_without_data(loaded, options.size, evaluation, "evaluation")
    else:
        chosen = draw(_opened(loaded, calibration, options, purpose="calib", batch_size=images.batch_size))
    proven = None
    if evaluation is not None:
        proven = _opened(loaded, evaluation, options, purpose="eval", batch_size=EVALUATION_BATCH).checked()
    notes = _notes([path for path in (calibration, evaluation) if path is not None], options)
    opened = [batches for batches in (chosen, proven) if isinstance(batches, Batches)]
    notes += dict.fromkeys(note for batches in opened for note in batches.notes)
    if isinstance(chosen, Batches) and len(chosen) < images.count:
        notes.append(
            f"{len(chosen):,} calibration samples are there, the recipe asks for up to {images.count:,}: all are taken"
        )
    return chosen, proven, notes


def _opened(loaded: LoadedModel, path: Path, options: ImageOptions, **how: Any) -> Batches:
    """Everything that is at `path`, as this model takes it."""
    is_folder, size = path.is_dir(), options.size
    channels = image_channels(loaded, size) if is_folder else 3
    if is_folder:
        how |= {"mean": options.mean, "std": options.std, "input_size": None if size is None else size.side}
    batches = open_pool(path, channels=channels, **how)
    if size is not None:
        check_against_model(batches, (size.channels or batches.shape[0], size.height, size.width), None)
    return batches


def _notes(paths: list[Path], options: ImageOptions) -> list[str]:
    folders = [path for path in paths if path.is_dir()]
    given = options.mean is not None or options.std is not None
    scaled = [
        f"`{name}` has a value above 1 ({','.join(map('{:g}'.format, values))}): images are scaled to [0, 1] before "
        "they are normalised, so that 123.7 is written 0.485"
        for name, values in (("mean", options.mean), ("std", options.std))
        if folders and values is not None and max(values) > 1
    ]
    if scaled:
        return scaled
    if folders and not given:
        return ["images are scaled to [0, 1] and not normalised: give `mean` and `std` if the training had them"]
    if given and len(folders) < len(paths):
        return ["`mean` and `std` are for image files; arrays are used as they are"]
    return []
