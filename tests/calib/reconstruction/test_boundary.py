"""Values between units: whose targets and inputs they are, the loss between them, and exact storage as codes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isobit.backends.base import BACKENDS
from isobit.backends.onnx.target import TARGETS
from isobit.build import plan
from isobit.calib.calibrate import calibrate
from isobit.calib.reconstruction.boundary import CachedValue, segments
from isobit.pipeline.errors import RecipeError
from isobit.pipeline.graph.nodes import quantizer_of
from isobit.pipeline.graph.subgraphs import extract
from isobit.pipeline.model.modelfile import LoadedModel
from tests.examples import nets
from tests.examples.tiny import quantized_net
from tests.examples.units import CPU, PAPER, calibration, path_over, recipe, task_at


def test_codes_are_stored_exactly_in_one_byte() -> None:
    made = calibration()
    quantizer = next(iter(made.activations().values()))
    value = quantizer(made.images)
    stored = CachedValue(len(value), CPU, quantizer)
    stored.append(value[:20])
    stored.append(value[20:])
    assert stored.nbytes == value.numel()
    assert torch.equal(stored.rows(slice(0, 48)), value)
    index = torch.tensor([5, 5, 30])
    assert torch.equal(stored.rows(index), value[index])
    assert stored.rows(index).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 3, 3), (6, 4, 5)])
def test_float_values_of_any_rank(shape: tuple[int, ...]) -> None:
    value = torch.randn(shape)
    stored = CachedValue(6, CPU)
    stored.append(value)
    assert torch.equal(stored.rows(torch.tensor([3, 0])), value[[3, 0]])


def test_stretches_cover_the_graph_in_order() -> None:
    made = calibration()
    path, _ = path_over(made)
    assert [segment.unit for segment in path] == [None, 0, 1, 2, 3]
    assert path[-1].outputs == ("linear",) and len(path[3].inputs) == 2
    forgotten = [name for segment in path for name in segment.forget]
    assert sorted(forgotten) == sorted({name for segment in path for name in segment.inputs})


class Gated(nn.Module):
    """Between the nodes of a unit stands one of none, which the unit reads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) * torch.sigmoid(x)


def test_a_unit_comes_after_what_it_reads_and_once() -> None:
    quantized = plan(LoadedModel(Gated().eval(), None, "gated", "", None), recipe("qdrop_w4a4"),
                     BACKENDS.get("onnx"), torch.randn(1, 2, 3, 3))
    path = segments(quantized.graph, [unit.nodes for unit in quantized.units])
    assert [(segment.unit, segment.outputs) for segment in path] == [(None, ("x_q", "sigmoid_q")), (0, ("mul_q",))]
    assert calibrate(quantized, torch.randn(16, 2, 3, 3)).log


def test_incremental_values_are_those_of_the_whole_network() -> None:
    made = calibration()
    path, boundary = path_over(made)
    names = [node.name for node in made.graph.graph.nodes if node.op in ("call_function", "call_module")]
    for segment in path:
        boundary.run_teacher(segment)
        boundary.run_student(segment, keep=True)
        done = names[: max(names.index(name) for name in segment.outputs) + 1]
        for quantized, store in ((True, boundary.student), (False, boundary.teacher)):
            prefix = extract(made.graph, done, quantized=quantized)
            expected = dict(zip(prefix.output_names, prefix(made.images), strict=True))
            for name in segment.outputs:
                found = store[name].rows(slice(0, len(made.images)))
                assert torch.allclose(found, expected[name], rtol=1e-4, atol=1e-5)
        boundary.cross(segment)
    # The first unit's input is never mixed, and what nobody reads any more is gone.
    assert set(path[1].inputs) <= boundary.raw and not set(path[2].inputs) & boundary.raw
    assert set(boundary.student) == {"linear"}


def test_the_target_is_the_float_network_whatever_happens_to_the_quantized_one() -> None:
    made = calibration()
    path, boundary = path_over(made)
    boundary.run_teacher(path[0])
    boundary.run_teacher(path[1])
    before = boundary.teacher[path[1].outputs[0]].rows(slice(0, 48)).clone()
    for quantizer in (*made.activations().values(), *made.weights().values()):
        quantizer.scale = quantizer.scale * 3
    boundary.run_teacher(path[1])
    after = boundary.teacher[path[1].outputs[0]].rows(slice(0, 48))
    assert torch.equal(before, after)
    assert float(after.min()) >= 0.0 and after.unique().numel() > 1000


@pytest.mark.parametrize("name", ["tiny", "residual", "mobile"])
def test_the_first_unit_sees_the_image_itself(name: str) -> None:
    """Xq = Xf = image where pixels stay in float; a target with 8-bit pixels quantizes them, and mixes nothing."""
    task, boundary = task_at(calibration(name=name, target=PAPER), 0)
    whole = slice(0, task.count)
    assert torch.equal(task.inputs[0].rows(whole), task.float_inputs[0].rows(whole))
    assert torch.equal(task.inputs[0].rows(whole), calibration(name=name, target=PAPER).images)
    assert task.teacher_inputs == (None,) and len(boundary.raw) == 1
    quantized, _ = task_at(calibration(), 0)
    assert quantized.teacher_inputs == (None,)


@pytest.mark.parametrize("name", ["tiny", "residual", "mobile"])
def test_targets_lie_after_the_activation_and_on_no_grid(name: str) -> None:
    made = calibration(name=name, target=PAPER)
    activated = 0
    for unit in range(len(made.units)):
        task, _ = task_at(made, unit)
        (target,) = (value.rows(slice(0, task.count)) for value in task.targets)
        assert target.unique().numel() > min(0.2 * target.numel(), 200)
        if any(node.op == "call_function" and "relu" in str(node.target) for node in task.teacher.graph.nodes):
            assert float(target.min()) >= 0.0
            activated += 1
    assert activated == {"tiny": 3, "residual": 3, "mobile": 0}[name]  # ReLU6 is hardtanh; bottlenecks are linear


def test_loss_is_a_mean_over_positions_and_a_sum_over_channels() -> None:
    made = calibration()
    path, boundary = path_over(made)
    boundary.run_teacher(path[0])
    boundary.run_student(path[0], keep=True)
    boundary.run_teacher(path[1])
    loss = boundary.run_student(path[1])
    name = path[1].outputs[0]
    node = next(n for n in made.graph.graph.nodes if n.name == name)
    whole = slice(0, 48)
    value = path[1].student(boundary.student[path[1].inputs[0]].rows(whole))[0]
    assert quantizer_of(made.graph, node) is not None
    expected = (value - boundary.teacher[name].rows(whole)).square().sum(1).mean()
    assert loss == pytest.approx(float(expected), rel=1e-4)


def test_a_method_that_draws_samples_is_refused_where_they_do_not_lie_on_the_first_axis() -> None:
    """Rows that are places: `reshape(-1, 6)` of maps."""
    model, images = nets.build("paddings")
    for of, field in (
        (recipe("qdrop_w4a4", "images.batch_size=2"), "method.name"),
        (recipe("minmax_w4a4", "finish.steps=2"), "finish.steps"),
    ):
        quantized, _ = quantized_net(TARGETS["generic"], of, model, images)
        with pytest.raises(RecipeError, match="do not lie one after the other on the first axis") as error:
            calibrate(quantized, images)
        assert error.value.field == f"recipe.{field}" and error.value.hint
