"""Which function a kernel must be, by who was called before."""

from isobit.backends.tvm.readback.numbering import Numbering
from isobit.backends.tvm.readback.wanted import FLOAT, Kernel

SHAPES = (("int8", (4,)),)


def kernel(name, form):
    return Kernel(name, (), (4,), "uint8", form)


def test_a_new_kernel_bears_the_next_number_and_the_name_of_its_kind():
    numbering = Numbering()
    assert numbering.wanted("conv3x3_0", kernel("conv3x3", "a"), SHAPES) == "conv3x3_0"
    assert numbering.wanted("conv3x3_2", kernel("conv3x3", "b"), SHAPES) == "conv3x3_1"
    assert numbering.wanted("sum_2", kernel("conv1x1", "c"), SHAPES) == "conv1x1_2"
    assert numbering.wanted("conv_03", kernel("conv", "d"), SHAPES) == "conv_3"


def test_one_of_the_same_form_may_be_called_again_and_no_other():
    numbering = Numbering()
    numbering.wanted("conv3x3_0", kernel("conv3x3", "a"), SHAPES)
    assert numbering.wanted("conv3x3_0", kernel("conv3x1", "a"), SHAPES) == "conv3x3_0"
    assert numbering.wanted("conv3x3_0", kernel("conv3x3", "b"), SHAPES) == "conv3x3_1"
    assert numbering.wanted("conv3x3_0", kernel("conv3x3", "a"), ()) == "conv3x3_2"


def test_a_step_calls_the_same_in_every_function():
    numbering, one = Numbering(), kernel("conv3x3", "a")
    numbering.wanted("conv3x3_0", one, SHAPES)
    numbering.wanted("conv3x3_1", kernel("conv3x3", "a"), SHAPES)
    assert numbering.wanted("conv3x3_1", one, SHAPES) == "conv3x3_0"


def test_functions_in_float_are_counted_apart():
    numbering = Numbering()
    numbering.wanted("quantize_0", kernel("quantize", "a"), ())
    assert numbering.wanted("float_0", kernel(FLOAT, "b"), ()) == "float_0"
    assert numbering.wanted("sum_1", kernel("sum", "c"), ()) == "sum_1"
