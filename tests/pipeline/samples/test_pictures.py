"""The picture of made images: everything is on it, and it is the same bytes every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from isobit.pipeline.samples.pictures import save_grid


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "L")])
def test_every_image_is_there_over_its_own_range(tmp_path: Path, channels: int, mode: str) -> None:
    images = torch.randn(10, channels, 16, 12) * torch.arange(1, 11).reshape(-1, 1, 1, 1)
    for name in ("one.png", "two.png"):
        save_grid(images, tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    with Image.open(tmp_path / "one.png") as picture:
        assert picture.mode == mode and picture.size == (8 * (4 * 12 + 2) + 2, 2 * (4 * 16 + 2) + 2)
        pixels = np.asarray(picture)
    first = pixels[2:66, 2:50]
    if channels != 4:
        assert first.min() == 0 and first.max() == 255
    assert (pixels[-60:, 2 + 2 * 50:] == 255).all()  # ten images end in the second column of the second row


def test_at_most_sixty_four_are_shown(tmp_path: Path) -> None:
    many = torch.randn(70, 1, 64, 64)
    save_grid(many, tmp_path / "many.png")
    save_grid(many[:64], tmp_path / "first.png")
    assert (tmp_path / "many.png").read_bytes() == (tmp_path / "first.png").read_bytes()
