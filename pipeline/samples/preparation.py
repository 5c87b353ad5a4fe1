"""How one image becomes what a network reads: the one formula, for builds and for the `predict.py` of an artifact.

Shipped inside `predict.py` (see `backends.device.standalone`): numpy and pillow only, and the syntax of Python 3.8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

RESIZE_RATIO = 256 / 224  # size after the resize over size after the crop, as in the usual ImageNet evaluation
MODES = {"gray": "L", "rgb": "RGB", "bgr": "RGB"}  # PIL's, by the order of channels


@dataclass(frozen=True)
class ImagePreparation:
    """Every step from a picture to one sample of the input.

    Args:
        height, width: of the input, in pixels.
        resize: `crop` scales until the picture covers 256/224 of the size and cuts out its centre, `stretch` scales
            height and width each by its own factor, `none` takes pictures of this size only. Bilinear.
        channels: `rgb`, `bgr` or `gray`, in the order of the input's channels.
        pixel_range: what the bytes 0 and 255 become, before `mean` and `std`.
        mean, std: one number a channel: x becomes (x - mean) / std.
        layout: `NCHW` or `NHWC`, of the input.
        dtype: of the input.
        interpolation: of the resize.
    """

    height: int
    width: int
    resize: str
    channels: str
    pixel_range: tuple[float, float]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layout: str = "NCHW"
    dtype: str = "float32"
    interpolation: str = "bilinear"


def resized_to(preparation: ImagePreparation, size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) that a picture of `size` (width, height) is scaled to, before any crop."""
    height, width = preparation.height, preparation.width
    if preparation.resize != "crop" or size == (width, height):
        return width, height
    wide, high = round(width * RESIZE_RATIO), round(height * RESIZE_RATIO)
    if size[0] * high <= size[1] * wide:
        return wide, max(high, int(wide * size[1] / size[0]))
    return max(wide, int(high * size[0] / size[1])), high


def cut_from(preparation: ImagePreparation, scaled: tuple[int, int]) -> tuple[int, int]:
    """(left, top) of the part of a scaled picture that becomes the input."""
    width, height = scaled
    return round((width - preparation.width) / 2.0), round((height - preparation.height) / 2.0)


def fitted(image: Image.Image, preparation: ImagePreparation) -> Image.Image:
    """The picture in the size of the input; raises ValueError where it has another and nothing may be resized."""
    width, height = preparation.width, preparation.height
    if image.size == (width, height):
        return image
    if preparation.resize == "none":
        raise ValueError(f"the image has {image.size[0]}x{image.size[1]} pixels, the network takes {width}x{height}")
    scaled = image.resize(resized_to(preparation, image.size), Image.BILINEAR)  # pyright: ignore - old pillow too
    left, top = cut_from(preparation, scaled.size)
    return scaled.crop((left, top, left + width, top + height))


def values_of(image: Image.Image, preparation: ImagePreparation) -> np.ndarray:
    """A picture of the input's size as float32 [C, H, W], or [H, W, C] where the layout says so."""
    pixels = np.asarray(image)
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    pixels = pixels[:, :, ::-1] if preparation.channels == "bgr" else pixels
    values = np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32)
    low, high = preparation.pixel_range
    values = values / np.float32(255 / (high - low)) + np.float32(low)
    mean, std = (np.asarray(numbers, np.float32)[:, None, None] for numbers in (preparation.mean, preparation.std))
    values = (values - mean) / std
    return np.ascontiguousarray(values.transpose(1, 2, 0)) if preparation.layout == "NHWC" else values


def as_input(image: Image.Image, preparation: ImagePreparation) -> np.ndarray:
    """What a network reads of any picture: one sample, float32, without the batch dimension."""
    return values_of(fitted(image.convert(MODES[preparation.channels]), preparation), preparation)


def in_picture(boxes: np.ndarray, preparation: ImagePreparation, size: tuple[int, int]) -> np.ndarray:
    """Boxes in pixels of the input as pixels of the picture, float64 [M, 4].

    Args:
        boxes: [M, 4] as x1 y1 x2 y2.
        size: (width, height) of the picture.
    """
    scaled = resized_to(preparation, size)
    left, top = cut_from(preparation, scaled)
    factors = np.array([size[0] / scaled[0], size[1] / scaled[1]] * 2)
    found = (np.asarray(boxes, np.float64).reshape(-1, 4) + (left, top) * 2) * factors
    return np.clip(found, 0, size * 2)


def record_of(preparation: ImagePreparation) -> dict[str, Any]:
    """The steps as plain values, for JSON."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(preparation).items()}
