"""Places are where kernels look: both plans, made apart, agree on every element of every tensor."""

import numpy as np
import pytest

from isobit.backends.tvm.kernels.layout import plan_places
from isobit.backends.tvm.readback.places import Place, places_of
from tests.examples.programs import Builder, ds_cnn, every_step, resnet20


def planes():
    """A map of one channel that dense layers read, and one that a pool reads as well."""
    net = Builder((5, 5, 2))
    one = net.move(0, (5, 5, 1), [1])
    other = net.move(0, (5, 5, 1), [0])
    net.conv(one, 4)
    net.global_average(other)
    return net.build(net.conv(net.conv(other, 3, dilation=(1, 2)), 2))


@pytest.mark.parametrize("make", [every_step, resnet20, ds_cnn, planes])
def test_every_element_lies_where_kernels_look(make):
    program = make()
    for found, wanted in zip(places_of(program), plan_places(program), strict=True):
        assert (found.size, found.border, found.pixel) == (wanted.size, wanted.border, wanted.pixel)
        height, width, channels = found.shape
        for y, x, c in {(0, 0, 0), (height - 1, width - 1, channels - 1), (height // 2, 0, channels // 2)}:
            assert found.elements[y, x, c] == wanted.at(y, x) + c


def test_one_byte_a_pixel_only_where_all_readers_are_dense_layers():
    assert [place.one_plane for place in places_of(planes())[1:3]] == [True, False]


def test_padding_and_channels_are_told_apart():
    place = Place((2, 3, 5), 16, (1, 0, 0, 1))
    assert place.whole == (3, 4, 16) and place.size == 192
    assert place.elements.shape == (2, 3, 5) and place.elements[0, 0, 0] == 64 and place.elements[1, 2, 4] == 164
    assert place.frame == Place((2, 3, 7), 16, (1, 0, 0, 1)).frame != Place((2, 3, 5), 32, (1, 0, 0, 1)).frame
    assert np.unique(place.elements).size == 30
