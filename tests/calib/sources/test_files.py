"""The plain draw: the same images in the same order as ever, because recorded numbers depend on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from isobit.calib.sources import draw
from isobit.pipeline.recipe.schema import ImagesRule
from isobit.pipeline.samples.data import open_data, open_pool


def pool_path(folder: Path) -> Path:
    np.save(folder / "x.npy", np.zeros((10, 1, 2, 2), np.float32))
    return folder / "x.npy"


def test_the_draw_is_the_one_on_record_and_that_of_open_data(tmp_path: Path) -> None:
    pool = open_pool(pool_path(tmp_path), batch_size=2, purpose="calib")
    recorded = (9, 7, 5, 2, 3, 8, 6, 4, 1, 0)  # torch.randperm(10) of seed 1005
    for count in (1, 4, 10, 99):
        drawn = draw(pool, ImagesRule(source="files", count=count, batch_size=2), 1005)
        assert drawn.order == recorded[:count]
        assert drawn.order == open_data(pool.path, batch_size=2, purpose="calib", count=count, seed=1005).order
    assert draw(pool, ImagesRule(source="files", count=10, batch_size=2), 1).order != recorded
