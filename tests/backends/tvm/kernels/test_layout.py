"""Places of tensors."""

from isobit.backends.tvm.kernels.layout import Place, pixel_bytes, plan_places
from tests.backends.fixed_point import oracle


def test_offsets_count_the_border():
    place = Place(3, 4, 20, 32, (1, 2, 0, 1))
    assert (place.row, place.size) == (7 * 32, 4 * 7 * 32)
    assert place.at(0, 0) == place.row + 2 * 32
    assert place.at(-1, -2) == 0


def test_only_images_have_narrow_pixels():
    assert [pixel_bytes(channels) for channels in (1, 16, 17)] == [16, 16, 32]
    assert pixel_bytes(3, image=True) == 4
    assert pixel_bytes(5, image=True) == 16


def test_borders_are_what_readers_pad():
    program = oracle.make_conv((8, 8, 16), 16, (4, 2), padding=(1, 0, 2, 1), residual_zero=0)
    source, residual, target = plan_places(program)
    assert source.border == (1, 0, 2, 1)
    assert residual.border == target.border == (0, 0, 0, 0)


def test_one_channel_that_convolutions_read_is_a_plane():
    program = oracle.make_conv((8, 9, 1), 16)
    place, target = plan_places(program)
    assert (place.pixel, place.row, target.pixel) == (1, 11, 16)
    assert place.size >= place.rows * place.row + 3
    assert plan_places(oracle.make_conv((8, 9, 1), 16, dilation=(1, 2), padding=(2, 2, 2, 2)))[0].pixel == 4
