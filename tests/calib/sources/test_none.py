"""No images, of the model's shape."""

from __future__ import annotations

from isobit.calib.sources import make
from tests.examples.units import net, recipe


def test_there_are_none_of_the_models_shape() -> None:
    made = make(net(recipe("mse_w8a8", "images.source=none", "images.count=0"))[0])
    assert made.images.shape == (0, 3, 8, 8) and made.labels is None
