"""Packed weights come back as they were, in the bits that they have."""

import numpy as np
import pytest
import torch

from isobit.backends.onnx.pack import pack_fields, pack_weight, unpack
from isobit.pipeline.quant.codebook import CodebookGrid
from isobit.pipeline.quant.grid import Grid, QParams, QuantSpec
from isobit.pipeline.quant.quantizer import Quantizer


def weight_quantizer(bits, shape, *, symmetric, seed=0):
    generator = torch.Generator().manual_seed(seed)
    grid = Grid(bits, signed=symmetric)
    quantizer = Quantizer(QuantSpec(grid, symmetric, axis=0))
    zero_point = torch.zeros(shape[0], dtype=torch.int32)
    if not symmetric:
        zero_point = torch.randint(grid.qmin, grid.qmax + 1, (shape[0],), generator=generator, dtype=torch.int32)
    quantizer.set_params(QParams(torch.rand(shape[0], generator=generator) + 0.1, zero_point))
    quantizer.harden(torch.randint(grid.qmin, grid.qmax + 1, shape, generator=generator))
    return quantizer


def kernel_codes(quantizer):
    zero_point = quantizer.zero_point.reshape(-1, *[1] * (quantizer.codes.dim() - 1))
    return (quantizer.codes - zero_point).numpy()


# 8 bits with zero points do not fit int8 without them: project_grids refuses them.
GRIDS = [(bits, True) for bits in range(1, 9)] + [(bits, False) for bits in range(1, 8)]


@pytest.mark.parametrize("shape", [(8, 4, 3, 3), (5, 3), (3, 1, 1, 1), (7, 1, 5, 3)])
@pytest.mark.parametrize(("bits", "symmetric"), GRIDS)
def test_round_trip(bits, symmetric, shape):
    quantizer = weight_quantizer(bits, shape, symmetric=symmetric)
    packed = pack_weight(quantizer)
    assert packed.codes.dtype == np.int8
    assert np.array_equal(packed.codes, kernel_codes(quantizer))
    assert np.array_equal(unpack(packed), packed.codes)


@pytest.mark.parametrize(("bits", "symmetric"), [(1, True), (2, True), (3, True), (4, True), (3, False), (4, False)])
def test_the_file_holds_as_many_bits_as_the_grid(bits, symmetric):
    packed = pack_weight(weight_quantizer(bits, (16, 8, 3, 3), symmetric=symmetric))
    assert 8 * sum(plane.data.nbytes for plane in packed.planes) == bits * 16 * 8 * 9


def test_all_grids_of_one_width_share_a_table():
    tables = {
        pack_weight(weight_quantizer(4, (4, 4), symmetric=symmetric, seed=seed)).planes[0].table.tobytes()
        for symmetric in (True, False) for seed in (0, 1)
    }
    assert len(tables) == 1


def test_five_bits_and_more_are_stored_as_int8():
    assert pack_weight(weight_quantizer(5, (4, 4), symmetric=True)).planes == ()


def test_one_changed_byte_changes_the_codes():
    packed = pack_weight(weight_quantizer(3, (8, 4), symmetric=True))
    before = unpack(packed).copy()
    packed.planes[0].data[0] ^= 1
    assert np.count_nonzero(unpack(packed) != before) == 1


def test_fields_are_read_from_the_low_bits_up():
    plane, = pack_fields(np.array([1, 2, 15]), 4)
    assert plane.data.tolist() == [0x21, 0x0F]
    assert plane.table[0x21].tolist() == [1 - 8, 2 - 8]


# --- codebooks per channel --------------------------------------------------------------------------------------------

BOOKS = {0: [0], 1: [-1, 1], 2: [-49, -11, 11, 49], 3: [-112, -67, -35, -10, 10, 35, 67, 112],
         4: [sign * code for code in (4, 13, 23, 33, 42, 52, 69, 98) for sign in (-1, 1)]}  # fmt: skip


def codebook_quantizer(bits, columns=(4, 3, 3)):
    random = np.random.default_rng(0)
    quantizer = Quantizer(QuantSpec(CodebookGrid(average=2), True, axis=0))
    quantizer.set_params(QParams(torch.ones(len(bits)), torch.zeros(len(bits), dtype=torch.int32)))
    quantizer.set_channel_bits(torch.tensor(bits))
    quantizer.harden(torch.tensor(np.stack([random.choice(BOOKS[b], columns) for b in bits])))
    return quantizer


@pytest.mark.parametrize("bits", [[3], [0, 0], [2] * 5, [4, 0, 3, 1, 2, 0, 4, 3, 1, 2, 2], [1, 4] * 150])
@pytest.mark.parametrize("columns", [(4, 3, 3), (5,), (1, 1, 1)])
def test_codebooks_come_back_in_the_bits_of_their_channels(bits, columns):
    quantizer = codebook_quantizer(bits, columns)
    packed = pack_weight(quantizer)
    assert np.array_equal(unpack(packed), quantizer.codes.numpy()) and unpack(packed).dtype == np.int8
    size, count = int(np.prod(columns)), len(packed.groups)
    stored = sum(plane.data.nbytes for group in packed.groups for plane in group.planes)
    assert stored <= sum(bits) * size / 8 + 2 * count  # a plane's last byte may be part empty
    assert packed.order.dtype == (np.uint8 if len(bits) <= 256 else np.uint16)


def test_codebooks_share_the_tables_of_ordinary_weights():
    (group,) = pack_weight(codebook_quantizer([4] * 3)).groups
    assert group.planes[0].table.tobytes() == pack_weight(weight_quantizer(4, (4, 4), symmetric=True)).planes[
        0].table.tobytes()
    assert group.palette.dtype == np.int8 and len(group.palette) == 16


def test_rows_that_a_projection_took_off_their_common_codebook_stay_int8():
    quantizer = codebook_quantizer([2, 2])
    quantizer.codes[0] = torch.round(quantizer.codes[0] / 1.3).int()
    packed = pack_weight(quantizer)
    assert packed.groups == () and np.array_equal(unpack(packed), quantizer.codes.numpy())
