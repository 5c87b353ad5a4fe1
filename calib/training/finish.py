"""The network-wise finish: scales, biases and the rounding of weights learn the float network's prediction.

Reconstruction answers for one unit at a time; what errors add up to over all of them nobody has looked at. Here the
whole quantized network, whatever method made it, is trained on the calibration samples and on what `augment` makes of
them (`calib.training.variables` says what is learned). Adam, its rates to 0 by cosine. The loss is the distance of
predictions from the float network's (`calib.reconstruction.predictions`), of a classifier at the rule's temperature,
and `features` times the mean over all units of |y - t|^2 / |t|^2, y what a unit hands on, t the float network's, |t|^2
of the first calibration samples.
That reconstruction ends with the whole network against its own prediction is what NWQ (NeurIPS 2022) and AE-QDrop
(2024) report.

An eighth of the samples, four at least, is kept out of training and judges, with samples made of them, after each of
up to eight epochs: the variables of the best epoch are taken, or none where the network was best as it came.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from isobit.calib.context import Calibration
from isobit.calib.cost import TRAINED, Cost, CostFacts
from isobit.calib.rates import cosine_factor
from isobit.calib.reconstruction.boundary import batches, check_rows, segments
from isobit.calib.reconstruction.losses import number_loss
from isobit.calib.reconstruction.predictions import FloatPredictions, PredictionNames, float_predictions
from isobit.calib.training.augment import augmented
from isobit.calib.training.finetune import train
from isobit.calib.training.variables import TrainedNetwork
from isobit.pipeline.graph.subgraphs import float_network
from isobit.pipeline.recipe.schema import Augmentation, FinishRule
from isobit.pipeline.samples.network_inputs import Inputs, on_device, part, run_graph

KEPT_OUT, LEAST_KEPT = 8, 4  # one sample in so many, and how many at least where that leaves as many to train on
MADE = 2  # samples made of each that is kept out
EPOCHS = 8  # at most, between two looks at the samples kept out


class Teacher:
    """The float network as it is when this is made: corrections of biases come after it.

    Args:
        stated: what the recipe says of the predictions.

    Attributes:
        predictions: at least one, of all calibration samples.
        names: nodes whose values the loss reads: those of the predictions, and of what units hand on.
    """

    def __init__(self, calibration: Calibration, rule: FinishRule, stated: PredictionNames | None = None) -> None:
        found = float_predictions(calibration, stated, rule.temperature)
        if rule.loss == "outputs":
            plain = [replace(each, kind="numbers", weighed_by="") for each in found.predictions]
            found = FloatPredictions(plain, found.values, rule.temperature)
        handed_on = _handed_on(calibration) if rule.features else []
        self.predictions, self._rule = found, rule
        self.names = tuple(dict.fromkeys([*found.names, *handed_on]))
        sample = calibration.batch_at(slice(0, 1))
        check_rows(calibration.graph, self.names, sample, "a finish", "recipe.finish.steps", "Set finish.steps=0")
        own = float_network(calibration.graph, self.names)
        self._outputs, self._network = own.output_names, copy.deepcopy(own)
        first = self._values(calibration.batch_at(slice(0, calibration.recipe.images.batch_size)))
        self._handed_on = {name: _squares(first[name]) for name in handed_on if name not in found.names}

    @torch.no_grad()
    def _values(self, inputs: Inputs) -> dict[str, Tensor]:
        return dict(zip(self._outputs, run_graph(self._network, inputs), strict=True))

    def loss(self, found: Mapping[str, Tensor], inputs: Inputs, whole: bool) -> Tensor:
        """How far `found`, a network's values for `inputs`, are from the float network's.

        Args:
            whole: with what units hand on, where the rule asks for it; else the distance of predictions alone.
        """
        values, own = self._values(inputs), self.predictions
        loss = FloatPredictions(own.predictions, values, own.temperature, scale=own).loss(found, slice(None))
        if not (whole and self._handed_on):
            return loss
        shares = [number_loss(found[name], values[name], squares) for name, squares in self._handed_on.items()]
        return loss + self._rule.features * sum(shares[1:], shares[0]) / len(shares)


def _squares(value: Tensor) -> float:
    """The sum of a sample's squares, on average over samples."""
    return max(float(value.square().sum()) / len(value), 1e-30)


def _handed_on(calibration: Calibration) -> list[str]:
    """What each unit hands on to those after it."""
    path = segments(calibration.graph, [unit.nodes for unit in calibration.units])
    return [name for segment in path if segment.unit is not None for name in segment.outputs]


def kept_out(calibration: Calibration) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the samples that judge, and of the others, which method and finish train on."""
    count = calibration.count
    order = np.random.default_rng(calibration.seed("finish")).permutation(count)
    kept = max(1, min(LEAST_KEPT, count // 2), count // KEPT_OUT)
    return np.sort(order[:kept]), np.sort(order[kept:])


def for_method(calibration: Calibration) -> Calibration:
    """The calibration that a method runs on before a finish: without the samples that judge the finish.

    All of them where the others do not fill one batch; then what judges has been seen, and a gain may be overlooked.
    """
    _, trained = kept_out(calibration)
    return calibration if _all_seen(calibration) else calibration.only(torch.from_numpy(trained))


def _all_seen(calibration: Calibration) -> bool:
    """Whether the method needs the samples that judge, too: the others do not fill one batch."""
    _, trained = kept_out(calibration)
    return len(trained) < min(calibration.count, calibration.recipe.images.batch_size)


def finish(calibration: Calibration, rule: FinishRule, teacher: Teacher) -> None:
    """Change codes, scales and biases in place; a note says what the loss was on samples that were kept out.

    An interrupted finish goes on from its last checkpoint.
    """
    network = TrainedNetwork(calibration, rule, teacher.names)
    if calibration.count < 2 or not network.moved():
        why = "one sample cannot both train and judge" if calibration.count < 2 else "there is nothing to learn"
        calibration.findings.notes.append(f"finish: not run, {why}")
        return
    finishing = _Finishing(calibration, rule, teacher, network)
    count, length = epochs(rule.steps)
    with finishing.network.attached():
        train(calibration, finishing, count, length, "finish.rate", rule.steps, rule.model_dump_json())
    if finishing.best is not None:
        finishing.network.set_values(finishing.best)
        finishing.network.settle()
    taken = "" if finishing.best else f": no gain at finish.rate={rule.rate:g}, not taken; a lower one may gain"
    said = f"from {finishing.first:.4g} to {finishing.least:.4g}{taken}"
    seen = "; the method saw them, so a gain may be overlooked" if _all_seen(calibration) else ""
    ended = "" if finishing.ended is None else f"; the loss was no longer finite after {finishing.ended}"
    calibration.findings.notes.append(
        f"finish: loss of the whole network on {finishing.kept} samples kept out {said} "
        f"({rule.steps} steps{ended}){seen}"
    )


def epochs(steps: int) -> tuple[int, int]:
    """(how many epochs, steps of each) of a finish; the last one may be shorter."""
    length = -(-steps // EPOCHS)
    return -(-steps // max(1, length)), length


def finish_cost(rule: FinishRule, facts: CostFacts) -> Cost:
    """What all steps and all looks at the samples kept out cost, the float network beside each."""
    looks = (1 + epochs(rule.steps)[0]) * (facts.images // KEPT_OUT) * (1 + MADE * bool(rule.augment))
    if not rule.steps:
        return Cost()
    return facts.network * (rule.steps * facts.batch * (TRAINED + 1.0) + looks * 2.0)


class _Finishing:
    """The training of the engine in `calib.training.finetune`.

    Attributes:
        kept: how many samples judge, those made of them apart.
        trained: indices of the others.
        best: the variables with the `least` loss of those that judge; None for those that the network came with.
        first: that loss before training.
        ended: how many steps were made when the loss was no longer finite; None where it always was.
    """

    def __init__(
        self, calibration: Calibration, rule: FinishRule, teacher: Teacher, network: TrainedNetwork
    ) -> None:
        self.calibration, self.rule, self.teacher, self.network = calibration, rule, teacher, network
        judging, self.trained = kept_out(calibration)
        self.kept, self._judging = len(judging), torch.from_numpy(judging)
        self._optimiser = torch.optim.Adam(self.network.variables)
        world = calibration.ranks.world
        self._size = max(1, min(calibration.recipe.images.batch_size, len(self.trained)) // world) * world
        self._random = np.random.default_rng(calibration.seed("finish: batches"))
        # Each process makes other samples of its share.
        self._making = np.random.default_rng([calibration.seed("finish: made samples"), calibration.ranks.rank])
        self._left: list[int] = []
        self._done = 0
        self.first = self.least = math.inf
        self.best: list[Tensor] | None = None
        self.ended: int | None = None
        self._loss_before = 0.0

    def begin(self, epoch: int) -> None:
        """Before the first epoch, look at the samples that are kept out, and say what there is to gain."""
        if not epoch:
            self.calibration.progress.note(
                f"finish: loss of the whole network on {self.kept} samples kept out is {self.judge():.3g}"
            )

    def step(self) -> dict[str, float]:
        """One step of Adam; nothing any more where the loss was not finite: the best epoch so far is taken."""
        if self.ended is not None:
            return {"loss": self._loss_before}
        rate = cosine_factor(self._done, self.rule.steps)
        for group in self._optimiser.param_groups:
            group["lr"] = rate * group["first"]
        self._optimiser.zero_grad()
        loss = self._loss(self._draw(), self.rule.augment, self._making, whole=True)
        found = self.calibration.ranks.first(lambda: float(loss.detach()))
        if not math.isfinite(found):
            self.ended = self._done
            return {"loss": self._loss_before}
        self._loss_before = found
        loss.backward()
        self.calibration.ranks.average(*(each.grad for each in self.network.moved() if each.grad is not None))
        self._optimiser.step()
        self._done += 1
        return {"loss": found}

    def end(self, epoch: int) -> dict[str, float]:
        """Look at the samples that are kept out."""
        return {"kept out": self.judge()}

    def _draw(self) -> Tensor:
        """This rank's samples of a step: permutations used up one after the other, so that none is in a batch twice."""
        if len(self._left) < self._size:
            self._left = self._random.permutation(self.trained).tolist()
        drawn, self._left = self._left[: self._size], self._left[self._size :]
        return torch.from_numpy(self.calibration.ranks.share(np.array([drawn]))[0])

    def _loss(
        self, index: Tensor, kinds: Sequence[Augmentation], random: np.random.Generator, whole: bool
    ) -> Tensor:
        """The mean loss of the samples `index`, after `kinds` of augmentation."""
        inputs = on_device(part(self.calibration.images, index), self.calibration.device)
        inputs = augmented(inputs, kinds, random)
        return self.teacher.loss(self.network.answers(inputs), inputs, whole)

    @torch.no_grad()
    def judge(self) -> float:
        """The mean loss of the samples that are kept out and of those made of them; keeps the best variables."""
        random, total, count = np.random.default_rng(self.calibration.seed("finish: judging")), 0.0, 0
        for turn in range(1 + (MADE if self.rule.augment else 0)):
            # The recipe's batches: how much memory there is must not decide what is mixed.
            for rows in batches(self.kept, self.calibration.recipe.images.batch_size):
                index = self._judging[rows]
                total += float(self._loss(index, self.rule.augment if turn else (), random, whole=False)) * len(index)
                count += len(index)
        loss = self.calibration.ranks.first(lambda: total / count)  # all take the same epoch
        loss = 0.0 if loss < 0.0 else loss  # a divergence of nothing is rounded to either side
        if not self._done:
            self.first = self.least = loss
        elif loss < self.least:
            self.least, self.best = loss, self.network.values()
        return loss if math.isfinite(loss) else self.least

    def state(self) -> dict[str, Any]:
        """Variables, Adam's moments, what is drawn next, and the best so far."""
        return {
            "values": self.network.values(), "optimiser": self._optimiser.state_dict()["state"],
            "random": self._random.bit_generator.state, "making": self._making.bit_generator.state,
            "left": self._left, "done": self._done, "first": self.first, "least": self.least,
            "best": self.best, "ended": self.ended, "loss": self._loss_before,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Put back what `state` gave."""
        self.network.set_values(state["values"])
        self._optimiser.load_state_dict({**self._optimiser.state_dict(), "state": state["optimiser"]})
        self._random.bit_generator.state = state["random"]
        if self.calibration.ranks.leads:  # the first process kept its own; others begin theirs anew
            self._making.bit_generator.state = state["making"]
        self._left, self._done = state["left"], state["done"]
        self.first, self.least, self.best = state["first"], state["least"], state["best"]
        self.ended, self._loss_before = state["ended"], state["loss"]
