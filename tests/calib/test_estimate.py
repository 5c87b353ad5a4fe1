"""The expected time: proportional to what it should be, stated by everybody, and near what was once measured."""

from __future__ import annotations

import dataclasses
import math
from functools import cache
from pathlib import Path

import pytest
import torch

from isobit.backends.base import BACKENDS
from isobit.build import plan
from isobit.calib.cost import Cost
from isobit.calib.estimate import GPU_TIMES, REFERENCE, estimate, spoken
from isobit.calib.methods import METHODS, find_method
from isobit.calib.sources import SOURCES, Maker, find_source
from isobit.pipeline.model.modelfile import load_model
from isobit.pipeline.recipe.family import family_names
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.stages import Quantized
from tests.examples.units import net, recipe

DATA = Path(__file__).parents[3] / "shared" / "data"
LARGE = 20_000  # steps beside which searching ranges and walking over the units cost nothing


@cache
def tiny() -> Quantized:
    return net(recipe("qdrop_w4a4"), name="residual")[0]


def seconds(name: str, *sets: str, images: int | None = 64) -> float:
    return estimate(dataclasses.replace(tiny(), recipe=load_recipe(name, list(sets))), images, threads=1).cpu_s


def test_every_method_and_every_source_that_makes_images_states_its_cost() -> None:
    find_method(load_recipe("qdrop_w4a4").method)
    find_source(load_recipe("qdrop_w4a4").images)
    assert len(METHODS.names()) >= 10
    assert all(callable(METHODS.get(name).cost) for name in METHODS.names())
    makers = [SOURCES.get(name) for name in SOURCES.names() if isinstance(SOURCES.get(name), Maker)]
    assert {found.name for found in makers} >= {"none", "distilled", "generated"}
    assert all(callable(found.cost) for found in makers)


@pytest.mark.parametrize("name", [f"{family}_{bits}" for family in family_names() for bits in ("w4a4", "w2a2")])
def test_every_shipped_recipe_has_a_time(name: str) -> None:
    taken = seconds(name, images=None)
    assert math.isfinite(taken) and taken > 0
    few = name.startswith(("nearest", "mse", "minmax"))
    assert taken < 0.5 if few else taken > 0.1  # ranges: a fiftieth of a second for each quantizer


@pytest.mark.parametrize("method", ["qdrop", "adaround", "lsq", "brecq", "pdquant"])
def test_twice_the_steps_or_the_batch_are_twice_the_time(method: str) -> None:
    more = ["method.activation_steps=10000"] if method == "brecq" else []
    name, fixed = f"{method}_w4a4", ["method.correction_steps=0"] if method == "pdquant" else []
    base = seconds(name, f"method.steps={LARGE}", *fixed)
    assert seconds(name, f"method.steps={2 * LARGE}", *fixed, *more) == pytest.approx(2 * base, rel=0.02)
    half = ["method.prediction_images=10"] if method == "pdquant" else []
    assert seconds(name, f"method.steps={LARGE}", "images.batch_size=16", *fixed, *half) == pytest.approx(
        base / 2, rel=0.05)


@pytest.mark.parametrize(
    ("name", "change"),
    [("gdfq_w4a4", "method.epochs=800"), ("gdfq_w4a4", "images.batch_size=400"), ("gdfq_w4a4", "method.steps=400"),
     ("fdda_w4a4", "method.steps=400"), ("dmbq-small_w4a4", "method.epochs=29"),
     ("zeroq_w4a4", "images.iterations=1000"), ("zeroq_w4a4", "images.count=128"),
     ("generated-qdrop_w4a4", "images.iterations=8000")],
)  # fmt: skip
def test_twice_the_training_is_twice_the_time(name: str, change: str) -> None:
    few = ["method.steps=1"] if "qdrop" in name else []
    count = 5000 if name.startswith("dmbq") else 0
    base, twice = seconds(name, *few, images=count), seconds(name, *few, change, images=count)
    assert twice == pytest.approx(2 * base, rel=0.05)


def test_a_budget_of_bits_costs_its_sensitivities() -> None:
    equal, mixed, fewer = (
        seconds("nearest_w4a4", *edits) for edits in (
            (), ("weights.bits={average: 4}",), ("weights.bits={average: 4, options: [2, 4, 8]}",))
    )
    assert equal < fewer < mixed
    assert mixed - equal == pytest.approx(2 * (fewer - equal))  # six options, and three


def test_the_whole_training_set_takes_longer_than_a_part() -> None:
    assert seconds("dmbq_w2a2", images=4096) < 0.1 * seconds("dmbq_w2a2", images=None)  # the recipe asks for 50,000


def test_threads_help_and_a_gpus_figure_says_what_it_is_of() -> None:
    one, two = estimate(tiny(), threads=1), estimate(tiny(), threads=2)
    assert one.cost == two.cost != Cost() and one.cpu_s / 2 < two.cpu_s < one.cpu_s
    assert one.gpu_s == two.gpu_s == pytest.approx(one.cpu_s / GPU_TIMES)
    assert "(2 threads" in two.text and "(1 thread" in one.text
    assert ("1,024 calibration images assumed" in one.text) == (one.assumed == 1024)
    assert ("a GPU about" in two.text) == torch.cuda.is_available()
    content = two.to_json()
    assert content["cpu_seconds"] == pytest.approx(two.cpu_s, abs=0.1) and "measured on an H200" in content["gpu"]


def test_a_slower_machine_takes_longer_by_what_is_slower_there() -> None:
    found = estimate(tiny(), threads=1)
    half = estimate(tiny(), machine=dataclasses.replace(REFERENCE, gmacs=REFERENCE.gmacs / 2,
                                                        gvalues=REFERENCE.gvalues / 2), threads=1)
    slow_memory = estimate(tiny(), machine=dataclasses.replace(REFERENCE, gvalues=REFERENCE.gvalues / 2), threads=1)
    assert half.cpu_s == pytest.approx(2 * found.cpu_s) and found.cpu_s < slow_memory.cpu_s < half.cpu_s
    assert estimate(tiny(), machine=REFERENCE.at(2, 0.75), threads=2).cpu_s == estimate(tiny(), threads=2).cpu_s


def test_the_proof_is_estimated_where_its_samples_are_known() -> None:
    assert estimate(tiny(), threads=1).proof_s is None and "the proof" not in estimate(tiny(), threads=1).text
    few, many = (estimate(tiny(), threads=1, samples=count) for count in (16, 1616))
    more = estimate(tiny(), threads=1, samples=3216)
    assert few.cpu_s == many.cpu_s and many.proof_s - few.proof_s == pytest.approx(more.proof_s - many.proof_s)
    assert 20 < many.proof_s / few.proof_s < 100  # the first 16 cost more
    assert "; the proof about" in few.text and few.to_json()["proof_seconds"] == pytest.approx(few.proof_s, abs=0.1)


def test_ranges_cost_something_however_few_images_there_are() -> None:
    one, many = (seconds("mse_w8a8", images=count) for count in (1, 101))
    plain = seconds("mse_w8a8", "weights.range=minmax", "activations.range=minmax", images=1)
    assert plain < seconds("mse_w8a8", "weights.range=minmax", images=1) < one < many
    assert many - one < 100 * one


@pytest.mark.parametrize(
    ("length", "text"), [(0.2, "1 s"), (40.4, "40 s"), (120, "2 min"), (7200, "2 h"), (86400 * 3, "3 days")]
)
def test_times_are_spoken_as_exactly_as_they_are_known(length: float, text: str) -> None:
    assert spoken(length) == text


# CPU seconds of calibration at one thread, as docs/results.md has them.
RESNET = ("models/resnet20_cifar10.pth", "models/resnet_cifar.py:resnet20", (3, 32, 32), 1024)
DS_CNN = ("models/ds_cnn_kws.pth", "models/ds_cnn.py:ds_cnn", (1, 49, 10), 100)
MEASURED = [
    (RESNET, "nearest", 0, 6), (RESNET, "lsq", 300, 29), (RESNET, "adaround", 300, 27), (RESNET, "brecq", 300, 39),
    (RESNET, "qdrop", 300, 42), (RESNET, "pdquant", 300, 112), (RESNET, "qdrop", 100, 19), (RESNET, "pdquant", 100, 49),
    (DS_CNN, "lsq", 500, 9), (DS_CNN, "adaround", 500, 8), (DS_CNN, "brecq", 500, 10), (DS_CNN, "qdrop", 500, 14),
    (DS_CNN, "pdquant", 500, 32),
]


@pytest.mark.skipif(not DATA.is_dir(), reason="the trained networks are not there (../shared/data)")
def test_what_was_measured_is_expected_within_a_factor_of_two() -> None:
    for subject in (RESNET, DS_CNN):
        weights, arch, shape, images = subject
        loaded = load_model(DATA / weights, f"{DATA / arch}")
        example, backend = torch.zeros(1, *shape), BACKENDS.get("onnx")
        base = plan(loaded, load_recipe("qdrop_w4a4"), backend, example)
        for _, method, steps, measured in (line for line in MEASURED if line[0] is subject):
            sets = [f"method.steps={steps}"] if steps else []
            sets += [f"method.activation_steps={steps // 4}"] if method == "brecq" else []
            quantized = dataclasses.replace(base, recipe=load_recipe(f"{method}_w4a4", sets))
            ratio = estimate(quantized, images, threads=1).cpu_s / measured
            assert 0.5 < ratio < 2.0, (method, steps, ratio)
