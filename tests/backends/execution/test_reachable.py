"""What is said of every input against all sums one by one, and against networks that run on samples."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from isobit import passes
from isobit.backends.execution import reachable
from isobit.backends.execution.codes import Codes
from isobit.backends.execution.exact import ExactArithmetic, ExactRegions
from isobit.backends.execution.integer import ExecutedArithmetic, Execution
from isobit.backends.execution.kernels import SumKernel
from isobit.backends.execution.sum_values import value_of_sums
from isobit.backends.execution.thresholds import LARGEST_FLOAT
from isobit.backends.fixed_point import arithmetic as fixed_point
from isobit.backends.fixed_point.arithmetic import FixedPointArithmetic
from isobit.backends.fixed_point.operators import reductions
from isobit.backends.fixed_point.rules import integer_target
from isobit.backends.onnx import arithmetic
from isobit.backends.onnx.arithmetic import IntegerArithmetic
from isobit.pipeline.graph.nodes import op_name
from isobit.pipeline.graph.sums import layer_sums
from tests.examples import operators, ports
from tests.examples.onnx_cases import frozen, frozen_with_levels

FIXED = integer_target("test", "any")
BY_TARGET = {"onnx": IntegerArithmetic, "fixed": FixedPointArithmetic}


def arithmetic_of(target, name, *bits, **options):
    """The arithmetic of a frozen network, and its samples."""
    if name in operators.NETWORKS:
        model, x = operators.network(name)
        return FixedPointArithmetic(passes.legalize(ports.calibrate(ports.place(model, x, name, "c"), x))[0]), x
    options |= {"target": FIXED} if target == "fixed" else {}
    reference, images = frozen(name, *bits, **options)
    return BY_TARGET[target](reference), images


class Observed(Execution):
    """Keeps what every region read and gave."""

    def __init__(self, run):
        super().__init__(run.graph, run.target, run.kernels, run.logits)
        self.seen = []

    def _run_region(self, region, values, margins):
        found = super()._run_region(region, values, margins)
        if region.quantizer is not None and region.kind != "float":
            self.seen.append((region, {node: values[node] for node in region.inputs}, found[0].codes))
        return found


def moved_on_samples(run, images):
    """By tensor, on how many codes of the samples the target parts from the exact evaluation of what it read itself,
    and by how much.
    """
    observed, exact, moved = Observed(run), ExactRegions(run.graph), {}
    observed.run(images)
    for region, read, codes in observed.seen:
        if any(not isinstance(value, Codes) and not value.is_floating_point() for value in read.values()):
            continue  # numbers of words
        given = {node: value.centered.double() * value.grid.scale.double() if isinstance(value, Codes)
                 else value.double() for node, value in read.items()}
        steps = (exact.codes(region, given) - codes.double()).abs()
        moved[region.value.name] = int((steps > 0).sum()), int(steps.max())
    return moved


def check_against_samples(run, images):
    """Nothing is equal for every input that parts on a sample, or by more; the verdicts by name."""
    found, moved = {one.name: one for one in ExecutedArithmetic(run).every_input()}, moved_on_samples(run, images)
    for name, (codes, most) in moved.items():
        one = found[name]
        assert one.verdict == "open" or (most <= one.max_lsb and (one.parting > 0 or codes == 0)), one
    assert len(moved) >= 2
    return found


def one_by_one(run, region, read):
    """(sums, sums that part, largest difference) of a layer, every sum of every channel evaluated; from the weights."""
    layer, grid, exact = run.layer(region.anchor), run.grid_of(region), ExactRegions(run.graph)
    kernel, x = run.kernel_of(region), read[0]
    least, largest = layer_sums(layer.weight, min(x.low - x.zero_point, 0), max(x.high - x.zero_point, 0), layer.bias)
    reach = kernel.reach(run, region, read)
    codes = range(read[1].low, read[1].high + 1) if len(read) == 2 else [None]
    totals = torch.arange(int(least.min()), int(largest.max()) + 1).reshape(-1, *[1] * reach.least.dim())
    totals = totals.expand(-1, *reach.least.shape)
    inside = (totals >= least.reshape(reach.least.shape)) & (totals <= largest.reshape(reach.least.shape))
    count, parting, most = 0, 0, 0
    for code in codes:
        other = None if code is None else torch.full((1,) * totals.dim(), float(code - read[1].zero_point)).double()
        sums = reach.sums(totals, other)
        given = {region.anchor: value_of_sums(run, region, read)(sums)}
        if other is not None:
            given[region.inputs[1]] = other * read[1].scale.double()
        steps = (exact.codes(region, given) - grid.settle(kernel.bring(run, region, read, sums, grid)).double()).abs()
        steps = steps * inside
        count, parting, most = count + int(inside.sum()), parting + int((steps > 0).sum()), max(most, int(steps.max()))
    return count, parting, most


@pytest.mark.parametrize(("weight_bits", "bits", "ties"), [
    (2, 2, False), (3, 3, True), (4, 4, False), (8, 8, True),
])
@pytest.mark.parametrize(("target", "name"), [
    ("onnx", "hardtanh"), ("onnx", "linear_output"), ("fixed", "relu"), ("fixed", "add"),
])
def test_every_sum_of_small_layers_is_what_the_thresholds_say(target, name, weight_bits, bits, ties):
    if name == "add" and bits == 8:
        weight_bits, bits = 3, 4  # the residual has 8 bits: 256 times all sums
    judged, _ = arithmetic_of(target, name, weight_bits, bits, ties=ties)
    run, found, checked = judged.execution, {one.name: one for one in judged.every_input()}, 0
    grids = {region.value: run.grid_of(region) for region in run.regions}
    for region in run.regions:
        if op_name(region.anchor) != "conv2d" or region.quantizer is None:
            continue
        one, read = found[region.value.name], [grids[node] for node in region.inputs]
        assert (one.inputs, one.parting, one.max_lsb) == one_by_one(run, region, read) and one.over == "sums"
        checked += 1
    assert checked >= 2


def test_halves_part_where_the_target_rounds_them_up():
    """Scales that are powers of two: ONNX Runtime's float32 is exact, integers with a shift round halves otherwise."""
    onnx, fixed = (arithmetic_of(target, "relu", 4, 4, ties=True)[0] for target in ("onnx", "fixed"))
    found = {one.name: one for one in onnx.every_input()}
    assert {found[name].verdict for name in ("relu_q", "relu_1_q")} == {"equal"}
    found = {one.name: one for one in fixed.every_input()}
    assert found["relu_q"].verdict == "parts" and found["relu_q"].max_lsb == 1


@pytest.mark.parametrize(("target", "name"), [
    *(("onnx", name) for name in ("depthwise", "add", "add_itself", "squeeze_excite", "cat_signed", "pad_slice",
                                  "gate_row", "gelu", "batch_second", "matmul")),
    *(("fixed", name) for name in ("preactivation", "silu", "avg_pool_inside", "affine", "prelu", "tokens", "pixels",
                                   "hardtanh_after_pool")),
])
def test_no_sample_parts_where_every_input_is_said_to_be_equal(target, name):
    judged, images = arithmetic_of(target, name, 8, 8, ties=True)
    check_against_samples(judged.execution, images[:8])


@pytest.mark.parametrize("name", ["reductions", "pairs", "resizes", "words"])
def test_operators_of_fixed_point_alone(name):
    judged, x = arithmetic_of("fixed", name)
    found = check_against_samples(judged.execution, x)
    wanted = {"sums", "codes"} if name == "resizes" else {"sums", "codes", "pairs"}
    assert wanted <= {one.over for one in found.values()}


@pytest.mark.parametrize("name", ["squeeze_excite", "add", "cat"])
def test_nested_levels_have_steps_by_channel(name):
    reference, images = frozen_with_levels(name, "generic")
    found = check_against_samples(IntegerArithmetic(reference).execution, images)
    assert all(one.verdict != "open" for one in found.values() if one.name.endswith("_q"))


def with_bring(judged, reference, bring):
    """The same arithmetic, whose convolutions bring their sums to codes by `bring`."""
    kernels = {**arithmetic.KERNELS, "conv2d": replace(arithmetic.layer, bring=bring)}
    return ExecutedArithmetic(Execution(reference.graph, judged.execution.target, kernels, arithmetic.logits))


def test_a_scale_wrong_by_one_step_of_float32_is_caught_though_no_sample_shows_it():
    reference, images = frozen("relu", 8, 8, ties=True)
    judged = IntegerArithmetic(reference)
    right, wanted, hidden = {one.name: one for one in judged.every_input()}, judged.run(images[:1]), 0
    for channel in range(8):
        def bring(run, region, grids, sums, grid, channel=channel):
            layer = run.layer(region.anchor)
            scale = layer.scale.clone()
            if len(scale) == 8:
                scale[channel] = torch.nextafter(scale[channel], torch.tensor(0.0))
            kept = Execution.__new__(Execution)
            kept.layer = lambda node: replace(layer, scale=scale)
            return arithmetic.layer.bring(kept, region, grids, sums, grid)

        wrong = with_bring(judged, reference, bring)
        found = {one.name: one for one in wrong.every_input()}["relu_q"]
        assert right["relu_q"].verdict == "equal" and found.verdict == "parts" and found.max_lsb == 1
        assert found.digest != right["relu_q"].digest
        got = wrong.run(images[:1])
        hidden += all(np.array_equal(codes, got[name]) for name, codes in wanted.items())
    assert hidden  # else the samples would do


def test_what_is_no_staircase_is_not_judged_by_its_steps():
    reference, _ = frozen("relu", 4, 4)

    def bring(run, region, grids, sums, grid):
        codes = arithmetic.layer.bring(run, region, grids, sums, grid)
        return torch.where(sums.products > 2000, 0, codes)

    found = {one.name: one for one in with_bring(IntegerArithmetic(reference), reference, bring).every_input()}
    assert found["relu_q"].verdict == "open" and "no staircase" in found["relu_q"].why


def test_what_cannot_be_said_is_named_and_sums_have_their_bounds():
    judged, _ = arithmetic_of("onnx", "gelu")
    found = {one.name: one for one in judged.every_input()}
    assert found["gelu_q"].verdict == "open" and found["gelu_q"].why == "runs in float"
    assert found["linear"].why == "its sums leave in float" and found["linear"].bound < found["linear"].limit
    assert found["x_q"].over == "numbers" and found["x_q"].inputs == 2 * LARGEST_FLOAT + 1
    pooled, _ = arithmetic_of("onnx", "avg_pool")
    assert "more than one sum" in {one.name: one for one in pooled.every_input()}["avg_pool2d_q"].why
    assert not isinstance(arithmetic.KERNELS["avg_pool2d"], SumKernel)


def test_the_mathematics_is_itself():
    reference, _ = frozen("relu")
    found = ExactArithmetic(reference).every_input()
    assert [one.name for one in found] == ["x_q", "relu_q", "relu_1_q", "mean_dim_q"]
    assert {(one.verdict, one.over) for one in found} == {("equal", "itself")}


def test_a_verdict_is_the_same_twice():
    first, second = (arithmetic_of("fixed", "add", 4, 4)[0].every_input() for _ in range(2))
    assert first == second and all(len(one.digest) == 64 for one in first if one.verdict != "open")


def test_a_digest_says_nothing_of_how_many_codes_are_looked_at_together(monkeypatch):
    judged, _ = arithmetic_of("fixed", "add", 4, 4)
    whole = judged.every_input()
    monkeypatch.setattr(reachable, "_AT_ONCE", 300)
    assert judged.every_input() == whole and any(one.over == "sums" for one in whole)


def test_a_digest_is_of_the_targets_thresholds_alone(monkeypatch):
    judged, _ = arithmetic_of("onnx", "relu", 4, 4)
    whole = judged.every_input()
    exactly = ExactRegions.codes
    monkeypatch.setattr(ExactRegions, "codes", lambda *given: exactly(*given) + 3)
    others = judged.every_input()
    assert [one.digest for one in others] == [one.digest for one in whole]
    assert all(one.max_lsb >= 3 for one in others if one.verdict != "open")


@pytest.mark.parametrize(("name", "wrong"), [
    ("avg_pool_padded", "pool_divisors"), ("reductions", "reduction_divisor"),
])
def test_a_divisor_that_is_wrong_wherever_the_target_asks_for_it_parts(name, wrong, monkeypatch):
    def verdicts():
        judged, _ = arithmetic_of("fixed", name, 8, 8)
        sums = {region.value.name for region in judged.execution.regions
                if op_name(region.anchor) in ("avg_pool2d", "mean_over_dims")}
        return [one.max_lsb for one in judged.every_input() if one.name in sums and one.over == "sums"]

    right = verdicts()
    assert right and max(right) <= 1
    for module in (fixed_point, reductions):
        if hasattr(module, wrong):
            divisor = getattr(module, wrong)
            monkeypatch.setattr(module, wrong, lambda node, divisor=divisor: divisor(node) + 2)
    assert min(verdicts()) > 2
