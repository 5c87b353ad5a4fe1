"""Layers and operators of two tensors: whatever is changed in them is told by its field."""

import re

import numpy as np
import pytest

from isobit.backends.c.emit import emit_program
from isobit.backends.c.readback.calls import Run
from isobit.backends.c.readback.facts import sizes_of
from isobit.backends.c.readback.layers import LAYERS
from isobit.backends.c.readback.leaving import LEAVING
from isobit.backends.c.readback.maps import MAPS
from isobit.backends.c.readback.source import read_source
from isobit.backends.readback.description import Terms
from tests.backends.fixed_point import oracle
from tests.examples.programs import Builder


def followed(program, folder, edit=lambda text: text):
    emit_program(program, folder, "net", "generic")
    source = read_source(edit((folder / "model.c").read_text()), (folder / "model.h").read_text(), "net")
    run = Run(source, sizes_of(source), Terms())
    run.follow({**LAYERS, **MAPS, **LEAVING})
    return run


@pytest.mark.parametrize(("groups", "bits"), [(1, 8), (2, 8), (4, 8), (1, 3), (4, 3), (2, 5)])
def test_weights_and_biases_are_those_of_the_step_however_they_lie(groups, bits, tmp_path):
    program = oracle.make_conv((5, 5, 4), 4, groups=groups, bits=bits, zero_points=(7, 9))
    step, layer = program.steps[0], followed(program, tmp_path).tensors["tensor 1"]
    assert np.array_equal(layer.get("weights").array, step.weights.codes)
    assert np.array_equal(layer.get("bias").array, step.bias) and layer.get("zero_point") == 7
    assert layer.get("group") == (4 // groups, 4 // groups) and layer.get("shift") == step.rescale.shift


@pytest.mark.parametrize(("pattern", "new", "told"), [
    (r"(weights = \{weights_0, offset_0, \d, )\d+", r"\g<1>9", "size of a channel's weights"),
    (r"(codes, 0, a \+ )(\d+)(, \(int8_t \*\)\(a \+ )\d+", r"\g<1>\2\g<3>\2", "output"),
])
def test_sizes_and_places_that_do_not_fit_are_told(pattern, new, told, tmp_path):
    program = oracle.make_conv((5, 5, 4), 4, bits=3)

    def edit(text):
        return re.sub(pattern, new, text, count=1)

    problems = followed(program, tmp_path, edit).problems
    assert any(told in each.field for each in problems)


def test_bits_behind_the_last_weight_are_zero(tmp_path):
    program = oracle.make_conv((5, 5, 3), 4, bits=3)  # 81 bits a channel
    size = -(-27 * 3 // 8)

    def edit(text):
        found = re.search(r"weights_0\[\d+\] = \{\n(.*?)\n\}", text, re.DOTALL)
        numbers = [int(each) for each in re.findall(r"\d+", found[1])]
        numbers[size - 1] |= 128
        return text.replace(found[1], ", ".join(map(str, numbers)))

    assert "bits behind" in followed(program, tmp_path, edit).problems[0].field


def test_of_two_tensors_the_fields_are_told_apart(tmp_path):
    net = Builder((4, 4, 6))
    first = net.sum(0, net.global_average(0))
    program = net.build(net.product(first, 0))
    tensors = followed(program, tmp_path).tensors
    total, product = tensors[f"tensor {first}"], tensors[f"tensor {program.steps[-2].output}"]
    assert (total.get("a_pixel"), total.get("b_pixel")) == (6, 0) and str(total.get("b")) == "tensor 1"
    assert product.kind == "product" and product.get("a_zero") == program.buffers[first].zero_point
    problems = followed(program, tmp_path, lambda text: text.replace(".a_pixel = 6", ".a_pixel = 5", 1)).problems
    assert "a_pixel" in problems[0].field
