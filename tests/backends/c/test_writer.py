"""Constants of a step under names of its own, and structures as text."""

import numpy as np
import pytest

from isobit.backends.c.writer import Writer, rescale_of, shape_of, window_of
from isobit.backends.fixed_point.program import Window
from tests.backends.fixed_point import oracle


def writer(logits=False):
    program = oracle.make_conv((1, 1, 3), 4, (1, 1), padding=(0, 0, 0, 0), logits=logits)
    return Writer(program, 0, lambda tensor: f"t{tensor}", "scratch")


def test_names_end_with_the_steps_number_and_sizes_add_up():
    made = writer()
    assert made.array("table", np.zeros(3, np.int32)) == "table_0" and made.size == 12
    assert made.structure("layer", {"a": "1"}) == "&layer_0"
    code = made.code(("conv",), "f();")
    assert len(code.constants) == 2 and code.calls == ("f();",) and code.kernels == ("conv",)


def test_a_term_of_one_multiplier_has_no_step():
    rescale = oracle.make_rescale_of([0.5], [255], 4)
    assert writer().term(rescale.terms[0], "multiplier").startswith("{multiplier_0, 0,")
    assert rescale_of(rescale, 3, 99).endswith("3, 99}")


def test_structures():
    assert shape_of(oracle.make_buffer("x", (2, 3, 4))) == "{2, 3, 4}"
    assert window_of(Window((3, 2), (2, 1), (1, 0, 1, 0))) == "{3, 2, 2, 1, 1, 0, 1, 1}"


def test_a_step_that_writes_logits_has_no_tensor():
    assert writer(logits=True).y == "logits"
    with pytest.raises(ValueError, match="writes the logits"):
        writer(logits=True).output  # noqa: B018
