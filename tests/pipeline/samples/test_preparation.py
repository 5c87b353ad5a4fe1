"""An image becomes the very numbers that torchvision makes of it, and boxes find their way back."""

import json

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import CenterCrop, Resize
from torchvision.transforms import functional as F

from isobit.pipeline.samples.images import image_steps
from isobit.pipeline.samples.preparation import ImagePreparation, as_input, in_picture, record_of, resized_to

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def noise(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (224, 224), (256, 256), (41, 97), (640, 33)])
@pytest.mark.parametrize("side", [224, 28, 31])
def test_a_crop_is_torchvisions(size, side):
    image = noise(*size)
    usual = image if size == (side, side) else CenterCrop([side, side])(Resize(round(side * 256 / 224))(image))
    expected = F.normalize(F.to_tensor(usual), list(MEAN), list(STD)).numpy()
    assert np.array_equal(as_input(image, image_steps(mean=MEAN, std=STD, input_size=side)), expected)


def test_every_byte_is_scaled_as_torchvision_scales_it():
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    for mean, std in (((0.1307,), (0.3081,)), (None, None)):
        steps = image_steps(mean=mean, std=std, channels=1, input_size=16)
        expected = F.normalize(F.to_tensor(image), list(steps.mean), list(steps.std)).numpy()
        assert np.array_equal(as_input(image, steps), expected)


@pytest.mark.parametrize(("bounds", "mean", "std", "expected"), [
    ((0.0, 255.0), None, None, [0, 51, 255]),
    ((0.0, 255.0), (127,), (128,), [-127 / 128, -76 / 128, 1]),
    ((-1.0, 1.0), None, None, [-1, -0.6, 1]),
    ((0.0, 1.0), None, None, [0, 0.2, 1]),
])
def test_the_pixel_range_is_what_mean_and_std_see(bounds, mean, std, expected):
    image = Image.fromarray(np.array([[0, 51, 255]], np.uint8))
    steps = image_steps(mean=mean, std=std, channels="gray", pixel_range=bounds, resize=(1, 3))
    np.testing.assert_allclose(as_input(image, steps)[0, 0], expected, atol=1e-6)


def test_channels_and_layout_are_an_order():
    image = noise(5, 3)
    rgb = as_input(image, image_steps(resize=(3, 5)))
    assert rgb.shape == (3, 3, 5)
    assert np.array_equal(as_input(image, image_steps(resize=(3, 5), channels="bgr")), rgb[::-1])
    last = as_input(image, image_steps(resize=(3, 5), layout="NHWC", mean=MEAN))
    assert np.array_equal(last, as_input(image, image_steps(resize=(3, 5), mean=MEAN)).transpose(1, 2, 0))


def test_a_stretch_keeps_every_edge_and_a_crop_covers():
    image = noise(64, 48)
    stretched = as_input(image, image_steps(resize=(24, 16)))
    assert np.array_equal(stretched, F.to_tensor(image.resize((16, 24), Image.BILINEAR)).numpy())
    assert as_input(image, image_steps(input_size=(24, 16))).shape == (3, 24, 16)
    for size in ((64, 48), (48, 64), (7, 500), (500, 7)):
        wide, high = resized_to(image_steps(input_size=(24, 16)), size)
        assert wide >= round(16 * 256 / 224) and high >= round(24 * 256 / 224)


def test_another_size_is_refused_where_nothing_is_resized():
    steps = ImagePreparation(4, 6, "none", "rgb", (0.0, 1.0), (0.0,) * 3, (1.0,) * 3)
    assert as_input(noise(6, 4), steps).shape == (3, 4, 6)
    with pytest.raises(ValueError, match="has 6x5 pixels, the network takes 6x4"):
        as_input(noise(6, 5), steps)


def test_the_record_goes_through_json():
    steps = image_steps(mean=MEAN, input_size=(24, 16), channels="bgr")
    assert as_input(noise(30, 30), ImagePreparation(**json.loads(json.dumps(record_of(steps))))).tolist() == as_input(
        noise(30, 30), steps).tolist()


def test_boxes_come_back_into_the_picture():
    stretch, crop = image_steps(resize=(240, 320)), image_steps(input_size=224)
    whole = np.array([[0, 0, 320, 240]])
    np.testing.assert_allclose(in_picture(whole, stretch, (640, 960)), [[0, 0, 640, 960]])
    # 512x256 is scaled to 512x256 and its middle 224 are cut out, 144 from the left and 16 from the top.
    np.testing.assert_allclose(in_picture(np.array([[0, 0, 224, 224]]), crop, (512, 256)), [[144, 16, 368, 240]])
    np.testing.assert_allclose(in_picture(np.array([[-500, -9, 900, 300]]), crop, (512, 256)), [[0, 7, 512, 256]])
