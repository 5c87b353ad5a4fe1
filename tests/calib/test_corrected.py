"""Corrections around any method: what is asked for changes what it gives, and its cost is told."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from isobit.calib.calibrate import calibrate
from isobit.calib.corrected import Corrected
from isobit.calib.cost import facts_of
from isobit.calib.methods import METHODS, find_method
from isobit.pipeline.graph.subgraphs import float_network
from isobit.pipeline.samples.network_inputs import run_graph
from tests.examples.units import net, recipe

EDITS = ("method.equalize_clips=true", "method.correct_biases=true")


def error(name: str, *edits: str) -> float:
    """Squared error of the calibrated network, as a share of the float network's squares."""
    quantized, images = net(recipe(name, *edits, steps=4), name="mobile")
    graph = calibrate(quantized, images).graph
    with torch.no_grad():
        (reference,) = run_graph(float_network(quantized.graph), images)
        (found,) = run_graph(graph, images)
    return float((found - reference).square().sum() / reference.square().sum())


@pytest.mark.parametrize("name", ["nearest_w4a8", "adaround_w4a8", "qdrop_w4a8"])
def test_corrected_biases_bring_the_outputs_of_every_method_nearer(name: str) -> None:
    assert error(name, "method.correct_biases=true") < error(name)


def test_affine_maps_take_the_place_of_corrected_biases() -> None:
    both = ("method.correct_biases=true", "method.correct_affine=true")
    assert error("nearest_w4a8", *both) == error("nearest_w4a8", both[1]) < error("nearest_w4a8")


def test_each_does_something_of_its_own() -> None:
    assert len({error("nearest_w4a4", *EDITS[:count]) for count in range(3)}) == 3


def test_every_method_that_rounds_to_stated_grids_takes_them() -> None:
    taking = {name for name in METHODS.names() if issubclass(METHODS.get(name).parameters, Corrected)}
    assert taking >= {"nearest", "zeroq", "lsq", "adaround", "brecq", "qdrop", "pdquant"}


def test_the_cost_of_what_is_asked_for_is_told() -> None:
    quantized, images = net(recipe("nearest_w4a8"), name="mobile")
    facts = dataclasses.replace(facts_of(quantized, len(images)), batch=4)
    costs = []
    for count in range(3):
        method, parameters = find_method(recipe("nearest_w4a8", *EDITS[:count]).method)
        costs.append(method.costs(parameters, facts).macs)
    assert costs == sorted(costs) and len(set(costs)) == 3
