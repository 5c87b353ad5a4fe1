"""Pictures and arrays on disk, and how tests open them."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from isobit.pipeline.errors import InputError
from isobit.pipeline.samples.data import open_data, open_pool

GOOD = np.zeros((4, 1, 2, 2), np.float32)


def picture(path, size=(8, 8), mode="RGB", value=None):
    """Writes a picture of random pixels, or of one value; returns its pixels [H, W(, C)]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    shape = (size[1], size[0], *channels)
    seed = int(hashlib.sha256(path.name.encode()).hexdigest()[:8], 16)
    pixels = np.random.default_rng(seed).integers(0, 256, shape) if value is None else np.full(shape, value)
    Image.fromarray(pixels.astype(np.uint8), mode).save(path)
    return pixels.astype(np.uint8)


def opened(path, purpose="eval", batch_size=3, **options):
    return open_data(path, batch_size=batch_size, purpose=purpose, **options)


def refused(path, match, **options):
    with pytest.raises(InputError, match=match) as caught:
        opened(path, **options)
    return caught.value


def npz(tmp_path, **arrays):
    np.savez(tmp_path / "data.npz", **arrays)
    return tmp_path / "data.npz"


def pool_of(path, **options):
    return open_pool(path, batch_size=2, purpose="calib", **options)
