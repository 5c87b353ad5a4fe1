"""What a method may touch: which quantizers are open, and seeds."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.examples.units import calibration, recipe


def test_activations_and_weights_are_told_apart() -> None:
    made = calibration(ranges=False)
    assert all(quantizer.spec.axis is None for quantizer in made.activations().values())
    assert all(quantizer.spec.axis == 0 for quantizer in made.weights().values())
    assert len(made.weights()) == 4 and len(made.activations()) == 6


def test_a_fixed_quantizer_is_nobodys() -> None:
    made = calibration(ranges=False)
    name, quantizer = next(iter(made.activations().items()))
    quantizer.fixed = True
    assert name not in made.activations()


def test_a_shared_quantizer_appears_once() -> None:
    made = calibration(ranges=False)
    nodes = [n for n in made.graph.graph.nodes if n.name in made.activations()]
    nodes[1].target = nodes[0].target
    assert list(made.activations()) == [node.name for node in nodes if node is not nodes[1]]


def test_seeds_depend_on_recipe_and_purpose_only() -> None:
    made = calibration(ranges=False)
    other = dataclasses.replace(made, recipe=recipe("qdrop_w4a4", "seed=7"))
    assert made.seed("layer1.0") == calibration(ranges=False).seed("layer1.0")
    assert len({made.seed("layer1.0"), made.seed("layer1.1"), other.seed("layer1.0")}) == 3
    assert 0 <= made.seed("layer1.0") < 2**63


def test_labels_that_a_method_needs_are_there_or_it_is_a_defect() -> None:
    made = calibration(ranges=False)
    with pytest.raises(ValueError, match="does not say that it needs them"):
        _ = made.known_labels
    labels = torch.zeros(len(made.images), dtype=torch.int64)
    assert dataclasses.replace(made, labels=labels).known_labels is labels
