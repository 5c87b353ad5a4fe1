"""The float network after a unit: its logits and gradients against autograd through the model itself."""

from __future__ import annotations

import torch
from torch import Tensor

from isobit.calib.reconstruction.objectives import PredictionDifference
from isobit.calib.reconstruction.reconstruct import UnitTask
from isobit.calib.reconstruction.tail import Tail
from isobit.calib.reconstruction.trainer import Settings, UnitTrainer
from isobit.calib.roundings import choose_rounding
from isobit.pipeline.graph.quantized_tensors import quantizers
from tests.examples.tiny import model_and_images
from tests.examples.units import answer, calibration, recipe, task_at

INDEX = torch.tensor([3, 0, 3, 17])


def inner() -> tuple[UnitTask, Tensor]:
    """The unit over which the skip passes, and the value that skips: the stem's quantized output."""
    made = calibration(recipe("qdrop_w2a2"))
    task, boundary = task_at(made, 1)
    return task, boundary.student["relu_q"].rows(INDEX)


def after_inner(output: Tensor, skip: Tensor) -> Tensor:
    """What the model does after its layer `inner`, written down by hand."""
    model = model_and_images()[0]
    x = torch.relu(skip + model.outer(output))
    return model.head(x.mean(dim=(2, 3)))


def test_logits_are_the_rest_of_the_float_network_with_the_skip_from_the_quantized_prefix() -> None:
    task, skip = inner()
    output = answer(task)[INDEX]
    with torch.no_grad():
        expected = after_inner(output, skip)
        found = task.make_tail("float32").logits([output], INDEX)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_gradients_are_autograds() -> None:
    task, skip = inner()
    output = answer(task)[INDEX]
    pull = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    leaf = output.clone().requires_grad_()
    after_inner(leaf, skip).backward(pull)
    seen: list[Tensor] = []

    def by_logits(logits: Tensor) -> Tensor:
        seen.append(logits)
        return pull

    (found,) = task.make_tail("float32").gradients([output], INDEX, by_logits)
    torch.testing.assert_close(found, leaf.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(seen[0], after_inner(output, skip), rtol=1e-4, atol=1e-5)
    assert not seen[0].requires_grad


def test_the_classifiers_tail_is_the_identity() -> None:
    task, _ = task_at(calibration(), 3)
    tail = task.make_tail("float32")
    output, pull = torch.randn(4, 5), torch.randn(4, 5)
    assert tail.logits([output], INDEX) is output
    assert torch.equal(tail.gradients([output], INDEX, lambda logits: pull)[0], pull)


def test_bfloat16_points_the_same_way_and_leaves_the_graph_in_float32() -> None:
    task, _ = inner()
    output = answer(task)[INDEX]
    pull = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    exact, coarse = (
        task.make_tail(precision).gradients([output], INDEX, lambda logits: pull)[0]
        for precision in ("float32", "bfloat16")
    )
    assert exact.dtype == coarse.dtype == torch.float32 and not torch.equal(exact, coarse)
    assert float(torch.cosine_similarity(exact.flatten(), coarse.flatten(), dim=0)) > 0.995
    assert {parameter.dtype for parameter in task.teacher.parameters()} == {torch.float32}


def test_nothing_in_the_tail_is_updated() -> None:
    """Neither parameters nor quantizers after the unit, and no gradient is left on a parameter anywhere."""
    made = calibration(recipe("pdquant_w2a2"))
    task, _ = task_at(made, 1)
    after = [name for unit in made.units[2:] for name in unit.nodes]
    quantized = {name: q for name, q in quantizers(made.graph).items() if name in after}
    before = {name: (q.scale.clone(), q.zero_point.clone()) for name, q in quantized.items()}
    parameters = {name: value.clone() for name, value in made.graph.named_parameters()}
    soft = choose_rounding("soft", {"learning_rate": 0.1})
    settings = Settings(steps=20, rounding=soft, keep_prob=0.5, scale_learning_rate=0.1)
    trainer = UnitTrainer(
        task, settings,
        lambda task, masks: PredictionDifference(
            task, masks, 0.5, task.make_tail("float32"), made.teacher_logits, 4.0, 1000.0
        ),
    )  # fmt: skip
    started = trainer.rounding.alpha.detach().clone()
    trainer.train(lambda count: None)
    assert not torch.equal(trainer.rounding.alpha, started)
    for name, value in made.graph.named_parameters():
        assert torch.equal(value, parameters[name]) and value.grad is None
    for name, quantizer in quantized.items():
        assert torch.equal(quantizer.scale, before[name][0]) and torch.equal(quantizer.zero_point, before[name][1])
        assert quantizer.codes is None and quantizer.stand_in is None


def test_an_output_that_the_prediction_does_not_need_gets_no_gradient() -> None:
    made = calibration(recipe("qdrop_w2a2"))
    task, boundary = task_at(made, 1)
    after = [name for unit in made.units[2:] for name in unit.nodes]
    tail = Tail(made.graph, after, (*task.student.output_names, "nobody"), boundary.student)
    gradients = tail.gradients([answer(task)[INDEX], torch.ones(4, 2)], INDEX, torch.ones_like)
    assert torch.equal(gradients[1], torch.zeros(4, 2)) and float(gradients[0].abs().max()) > 0.0
