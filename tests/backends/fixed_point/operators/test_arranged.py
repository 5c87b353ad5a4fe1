"""Programs of operators that lay their tensors out: the plain interpreter gives what the arithmetic gives."""

import numpy as np
import pytest

from isobit import passes
from isobit.backends.fixed_point.arithmetic import FixedPointArithmetic
from isobit.backends.fixed_point.lower import lower, refused
from isobit.backends.fixed_point.operators.steps import ArgMax, Extreme, Gather, Reduce, Resample
from isobit.backends.fixed_point.rules import integer_target
from isobit.calib.calibrate import calibrate
from isobit.pipeline.capture.capture import capture
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.samples.network_inputs import part, tensors
from tests.backends.fixed_point import oracle
from tests.examples import operators

TARGET = integer_target("test", "any")
STEPS = {"reductions": Reduce, "places": ArgMax, "pairs": Extreme, "resizes": Resample, "words": Gather}


def placed(name):
    model, x = operators.network(name)
    return passes.quantize(capture(model, part(x, slice(1)), name=name), load_recipe("minmax_w8a8"), TARGET), x


def entered(program, x):
    """Codes of every input, or the integers themselves, as they lie in memory."""
    found = []
    for buffer, tensor in zip(program.inputs, tensors(x), strict=True):
        values = tensor.numpy().reshape(len(tensor), *buffer.nchw)
        if buffer.integers:
            found.append(values.reshape(len(values), 1, 1, -1))
            continue
        steps = (np.rint(values / np.float32(buffer.scale)) + buffer.zero_point).clip(0, 255)
        height, width, channels = buffer.shape
        found.append(steps.astype(np.int64).reshape(-1, channels, height, width).transpose(0, 2, 3, 1))
    return found


@pytest.mark.parametrize("name", operators.NETWORKS)
def test_program_and_arithmetic_agree(name):
    quantized, x = placed(name)
    assert refused(quantized.graph, TARGET) == []
    reference = passes.legalize(calibrate(quantized, x))[0]
    program = lower(reference)
    assert name not in STEPS or any(isinstance(step, STEPS[name]) for step in program.steps)
    values = dict(enumerate(entered(program, x)))
    logits = np.full((len(values[0]), int(np.prod(program.logits))), np.nan, np.float32)
    for step in program.steps:
        result = oracle.compute(program, step, [values[number] for number in step.inputs])
        if step.output is None:
            first, count = program.logits_of(step)
            logits[:, first:first + count] = result.reshape(len(result), -1)
        else:
            values[step.output] = result
    expected = FixedPointArithmetic(reference).run(x)
    for number, buffer in enumerate(program.buffers):
        if buffer.quantized:
            codes = values[number] if buffer.in_order else values[number].transpose(0, 3, 1, 2)
            assert np.array_equal(codes.reshape(len(codes), *buffer.nchw), expected[buffer.name]), buffer.name
    start = 0
    for output, shape in program.outputs:
        size = int(np.prod(shape))
        assert np.array_equal(logits[:, start:start + size].reshape(-1, *shape), expected[output]), output
        start += size


def test_rows_are_read_in_the_order_of_the_graph():
    quantized, x = placed("rows")
    program = lower(passes.legalize(calibrate(quantized, x))[0])
    layers = [step for step in program.steps if type(step).__name__ == "Conv"]
    assert len(layers) == 4
    assert sum(program.buffers[step.output].in_order for step in layers if step.output is not None) >= 3
