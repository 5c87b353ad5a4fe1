"""A grid of images that no camera took, as a PNG for people to look at: the same images give the same bytes."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

SHOWN = 64
COLUMNS = 8
SIDE = 64  # pixels that the longer side of a small image is brought to, by whole factors


def save_grid(images: Tensor, path: Path) -> None:
    """Write up to 64 images as one picture, each spread over its own range of values.

    Args:
        images: float32 [N, C, H, W]; of other channels than 1 and 3 the first is shown.
        path: of the PNG.
    """
    images = images[:SHOWN].detach().float().cpu()
    channels = images.shape[1]
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    images = (images - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)
    if channels not in (1, 3):
        images = images[:, :1]
    factor = max(1, SIDE // max(images.shape[2:]))
    images = images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    grid = make_grid(images, nrow=COLUMNS, padding=2, pad_value=1.0)
    pixels = (grid * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(pixels[..., 0] if channels != 3 else pixels).save(path, format="PNG")
