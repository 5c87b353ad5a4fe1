"""Fields of a constant: where each lies, and what is said of a constant of another length."""

import numpy as np
import pytest

from isobit.backends.fixed_point.rescale import Rescale, Term
from isobit.backends.readback.description import Terms
from isobit.backends.tvm.kernels.parameters import Parameters
from isobit.backends.tvm.kernels.rescaling import add_rescale
from isobit.backends.tvm.readback.numbers import Fields, Whole, form_of

RESCALE = Rescale((Term(3, np.array([7, -9], np.int32)), Term(0, np.array([1 << 30], np.int32))), 32,
                  (200 << 32) + (1 << 31))


def filled():
    fields = Fields()
    fields.one("border", 3)
    fields.ends(0, 255)
    fields.ends(16, 240)
    fields.rescale(RESCALE, [1, 0, None, 5])
    fields.real("scale", 0.5)
    return fields.wanted


def test_fields_lie_where_kernels_read_them():
    parameters = Parameters()
    parameters.splat(3)
    parameters.splat_byte(16)
    parameters.splat_byte(240)
    add_rescale(parameters, RESCALE, 4, np.array([1, 0, 2, 3]))
    parameters.splat(int(np.float32(0.5).view(np.int32)))
    assert np.array_equal(np.concatenate(list(filled().parts.values())), parameters.array)


def test_each_field_is_compared_by_its_name():
    terms, whole = Terms(), np.concatenate(list(filled().parts.values()))
    found, wanted = filled().fields([whole], terms)
    assert found == wanted and list(found)[:4] == ["border", "low", "high", "multiplier_0"]
    whole[list(found).index("shift") * 16 + 3] += 1
    found, wanted = filled().fields([whole], terms)
    assert [name for name in found if found[name] is not wanted[name]] == ["shift"]


def test_a_constant_of_another_length_type_or_none_is_told_as_a_whole():
    whole = np.concatenate(list(filled().parts.values()))
    for other in (whole[16:], whole.astype(np.int64), None):
        found, wanted = filled().fields([other], Terms())
        assert list(found) == ["numbers"] and found["numbers"] is not wanted["numbers"]


def test_a_table_is_compared_with_its_type():
    terms, table = Terms(), np.arange(4, dtype=np.uint8)
    for other in (table.astype(np.int8), table.reshape(2, 2), table[::-1].copy(), None):
        found, wanted = Whole("table", table).fields([other], terms)
        assert found["table"] is not wanted["table"]
    found, wanted = Whole("table", table).fields([table.copy()], terms)
    assert found["table"] is wanted["table"]


def test_machine_code_knows_which_numbers_there_are_and_none_of_them():
    assert form_of(RESCALE) == ((True, True), (False, False), True)
    other = Rescale((Term(1, np.array([5, 6], np.int32)), Term(0, np.array([2], np.int32))), 32, (9 << 32) + (1 << 31))
    assert form_of(other) == form_of(RESCALE) != form_of(Rescale(other.terms, 40, 9 << 40))


def test_a_name_stands_once():
    fields = Fields()
    fields.one("border", 0)
    with pytest.raises(ValueError, match="two fields called border"):
        fields.one("border", 0)
