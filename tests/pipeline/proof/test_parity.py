"""The comparison counts every code, finds the first tensor that differs, and its gate can fail."""

import json

import numpy as np
import pytest
import torch

from isobit.pipeline.proof.accuracy import judge
from isobit.pipeline.proof.arithmetic import Followed
from isobit.pipeline.proof.counts import FLOAT_ROUNDING, CodeCount
from isobit.pipeline.proof.gates import apply_gates
from isobit.pipeline.proof.measures import Measures
from isobit.pipeline.proof.metrics import Metric
from isobit.pipeline.proof.parity import compare
from isobit.pipeline.proof.verdicts import parity_text

LABELS = torch.tensor([0, 1, 1, 0])


class Fixed:
    """A runner that answers from stored results; a sample is the number of its row."""

    float_boundaries, outputs, float_outputs, jumping = (), ("logits",), (), frozenset()

    def __init__(self, **results):
        self.results = results

    def run(self, x):
        return {name: value[x[:, 0].int().numpy()] for name, value in self.results.items()}


def rows(count, start=0):
    """Samples of `Fixed`."""
    return torch.arange(start, start + count).float()[:, None]


def results(**changes):
    first = np.arange(16, dtype=np.uint8).reshape(4, 4)
    base = {"a_q": first, "b_q": first[::-1].copy(), "logits": np.eye(2, dtype=np.float32)[[0, 1, 0, 0]]}
    return {**base, **changes}


def report_of(got, *, gated=("all",), expected=None, labels=LABELS, max_drop=None, **options):
    batches = [(rows(2, i), None if labels is None else labels[i:i + 2]) for i in (0, 2)]
    stages = {name: lambda x: torch.eye(2)[LABELS[:len(x)]] for name in ("float", "calibrated")}
    report = compare(batches, stages, Fixed(**(expected or results())), {"all": Fixed(**got)}, gated=gated, **options)
    apply_gates(report)
    report.judged = judge(report.answers, None, max_drop)
    return report


def test_equal_results_pass_and_every_code_is_counted():
    report = report_of(results())
    assert report.passed and report.deployed.codes == CodeCount(32, 0, 0)
    assert report.to_json()["first_divergence"] is None and report.to_json()["samples"] == 4


def test_one_differing_code_fails_and_is_located():
    changed = results()["b_q"]
    changed[3, 1] += 5
    report = report_of(results(b_q=changed), modules={"b_q": "layer.b"})
    found = report.to_json()["first_divergence"]
    assert not report.passed and (found["tensor"], found["module"]) == ("b_q", "layer.b")
    assert (found["differing"], found["max_lsb"]) == (1, 5)


def test_the_first_divergence_is_in_execution_order():
    report = report_of(results(a_q=results()["a_q"] ^ 1, b_q=results()["b_q"] ^ 1))
    assert report.to_json()["first_divergence"]["tensor"] == "a_q"


def test_a_logit_that_differs_in_its_last_bit_fails():
    logits = results()["logits"]
    logits[0, 0] = np.nextafter(np.float32(1), np.float32(2))
    report = report_of(results(logits=logits))
    assert not report.passed and report.deployed.logits_differing == 1 and report.deployed.codes.differing == 0


def test_a_missing_tensor_and_a_wrong_shape_differ_everywhere():
    missing = report_of({name: value for name, value in results().items() if name != "b_q"})
    assert not missing.passed and missing.deployed.codes.differing == 16
    assert report_of(results(b_q=results()["b_q"][:, :3])).deployed.codes.differing == 16


def test_levels_without_integer_kernels_are_reported_but_not_gated():
    report = report_of(results(a_q=results()["a_q"] ^ 1), gated=())
    assert report.passed and report.deployed.codes.differing == 16


def test_a_network_of_logits_alone_is_compared_by_them():
    only_logits = {"logits": results()["logits"]}
    assert report_of(only_logits, expected=only_logits).passed
    assert not report_of({"logits": only_logits["logits"] + 1}, expected=only_logits).passed


def test_accuracies_and_the_accuracy_gate():
    report = report_of(results(), max_drop=20.0)
    assert report.accuracy == {"float": 50.0, "calibrated": 50.0, "reference": 75.0, "artifact": 75.0}
    assert report.passed and report.gate[-1].measured == -25.0 and report.parity_passed
    wrong = report_of(results(logits=1 - results()["logits"]), gated=(), max_drop=20.0)
    assert not wrong.passed and wrong.gate[-1].allowed == 20.0 and wrong.parity_passed
    assert [rule.of for rule in report.gate] == ["parity", "accuracy"]


def test_agreement_is_counted_with_the_artifact_and_with_the_reference():
    turned = results()["logits"][[0, 1, 2, 1]]
    report = report_of(results(logits=turned))
    assert report.agreement == {"float": 100.0, "calibrated": 100.0}
    assert report.deployed.top1_agreement == report.to_json()["top1_agreement"] == 75.0
    report = report_of(results())
    assert report.agreement == report.to_json()["top1_agreement_with_artifact"] == {"float": 75.0, "calibrated": 75.0}
    assert report.deployed.top1_agreement == 100.0


def test_a_stage_that_writes_to_its_input_changes_no_other_stage_s():
    seen = []

    def greedy(x):
        seen.append(float(x.sum()))
        x += 1
        return torch.eye(2)[:len(x)]

    stages = {"float": greedy, "calibrated": greedy}
    compare([(torch.zeros(2, 1), None)], stages, Fixed(**results()), {"all": Fixed(**results())}, gated=["all"])
    assert seen == [0.0, 0.0]


@pytest.mark.parametrize("shape", [(4, 5, 8, 8), (4, 5, 30), (4, 1), (4, 1, 6, 6)])
def test_no_share_of_any_output_exceeds_a_hundred_percent(shape):
    logits = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    given = results(logits=logits)
    stages = {name: lambda x: torch.from_numpy(logits[:len(x)]) for name in ("float", "calibrated")}
    labels = LABELS if shape[1] == 1 else torch.zeros(4, *shape[2:], dtype=torch.int64)
    report = compare([(rows(4), labels)], stages, Fixed(**given), {"all": Fixed(**given)}, gated=["all"])
    share = None if shape[1] == 1 else 100.0
    assert report.deployed.top1_agreement == share and report.agreement == {"float": share, "calibrated": share}
    assert set(report.accuracy.values()) == {None}


def test_metrics_see_the_outputs_alone_and_every_stage_s():
    seen = []

    class Kept:
        def update(self, outputs, target):
            seen.append(tuple(outputs))

        def compute(self):
            return 1.0

    measures = Measures((Metric("kept", "kept", Kept),))
    report = report_of(results(), measures=measures)
    assert seen == [("logits",)] * 8  # two batches of four stages, the codes of two of which are there as well
    assert report.to_json()["metrics"]["kept"]["values"] == dict.fromkeys(
        ("float", "calibrated", "reference", "artifact"), 1.0)


def test_no_labels_gives_no_accuracy():
    report = report_of(results(), labels=None, max_drop=0.0)
    assert set(report.accuracy.values()) == {None} and report.passed


def test_other_levels_may_see_fewer_samples():
    batches = [(rows(2, start), None) for start in (0, 2)]
    sessions = {"all": Fixed(**results()), "basic": Fixed(**results())}
    stages = {"float": lambda x: torch.eye(2)[:len(x)], "calibrated": lambda x: torch.eye(2)[:len(x)]}
    report = compare(batches, stages, Fixed(**results()), sessions, gated=["all"], other_samples=1)
    assert [level.samples for level in report.levels] == [4, 1]


def test_levels_that_fail_no_build_see_the_samples_of_information():
    batches = [(rows(2, start), None) for start in (0, 2)]
    sessions = {name: Fixed(**results()) for name in ("all", "extended", "basic")}
    stages = {"float": lambda x: torch.eye(2)[:len(x)], "calibrated": lambda x: torch.eye(2)[:len(x)]}
    for information, other, expected in ((3, None, [4, 4, 4]), (1, 3, [4, 3, 1]), (4, 2, [4, 2, 2])):
        report = compare(
            batches, stages, Fixed(**results()), {n: Fixed(**results()) for n in sessions}, gated=["all", "extended"],
            information_samples=information, other_samples=other,
        )
        assert [level.samples for level in report.levels] == expected


@pytest.mark.parametrize("size", [1, 7, 8, 24, 4096])
@pytest.mark.parametrize("place", [0, -1])
def test_one_byte_that_differs_is_counted_wherever_it_stands(size, place):
    expected = np.arange(size).astype(np.uint8)
    got = expected.copy()
    assert CodeCount().add(expected, got) == 0
    got[place] ^= 3
    count = CodeCount()
    assert count.add(expected, got) == 1
    assert count == CodeCount(size, 1, abs(int(expected[place]) - int(got[place])))


def test_codes_of_another_type_or_order_in_memory_are_compared_as_numbers():
    expected = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert CodeCount().add(expected, expected.astype(np.int64)) == 0
    assert CodeCount().add(expected, np.asfortranarray(expected)) == 0
    assert CodeCount().add(expected, expected.T) == 56


def test_what_requantization_moves_is_counted_on_the_exact_samples():
    exact = results(a_q=results()["a_q"] + np.uint8(1))
    report = report_of(results(), exact=Fixed(**exact), information_samples=3)
    assert (report.moved_by_requantization.differing, report.moved_by_requantization.max_lsb) == (12, 1)
    assert report.to_json()["moved_by_requantization"]["samples"] == 3


class Floats(Fixed):
    """An arithmetic with a float operator before `a_q`; codes 0 and 1 of it are both explained."""

    def follow(self, x, codes):
        followed = self.run(x)
        return Followed(followed, {"a_q": (followed["a_q"] & 0xFE, followed["a_q"] | 1)})


def floats_report(got, float_outputs=(), kind=Floats, jumping=frozenset()):
    arithmetic = kind(**results())
    arithmetic.float_boundaries, arithmetic.float_outputs, arithmetic.jumping = ("a_q",), float_outputs, jumping
    stages = {name: lambda x: torch.eye(2)[:len(x)] for name in ("float", "calibrated")}
    batches = [(rows(2, start), None) for start in (0, 2)]
    report = compare(batches, stages, arithmetic, {"all": Fixed(**got)}, gated=["all"])
    apply_gates(report)
    return report


def test_boundaries_are_counted_apart_and_held_to_their_bounds():
    report = floats_report(results(a_q=results()["a_q"] ^ 1))
    assert report.passed and report.deployed.codes == CodeCount(16, 0, 0)
    assert report.to_json()["float_boundaries"] == {
        "a_q": {"compared": 16, "differing": 16, "max_lsb": 1, "unexplained": 0, "unsteady": 0}
    }
    outside = results()["a_q"]
    outside[0, 1] += 1  # 1 -> 2: one step, beyond the bounds
    report = floats_report(results(a_q=outside))
    assert [rule.passed for rule in report.rules] == [True, False, True] and not report.passed
    assert [rule.allowed for rule in report.rules] == [0, 0, 0] and report.rules[1].measured == 1
    assert report.to_json()["first_divergence"]["tensor"] == "a_q"
    assert report.to_json()["levels"][0]["unexplained_behind_float"] == 1


@pytest.mark.parametrize("jumps", [False, True])
def test_what_rounding_moves_by_many_steps_has_a_rule_of_its_own(jumps):
    class Wide(Floats):
        def follow(self, x, codes):
            followed = self.run(x)
            return Followed(followed, {"a_q": (followed["a_q"] & 0, followed["a_q"] | 255)})

    far = results()["a_q"]
    far[0, 1] += 2
    report = floats_report(results(a_q=far), kind=Wide, jumping=frozenset({"a_q"} if jumps else ()))
    assert [rule.passed for rule in report.rules] == [True, True, jumps] and report.passed == jumps
    assert report.deployed.unsteady == (not jumps) and report.deployed.unexplained == 0
    assert ("nearly equal numbers" in parity_text(report)) != jumps
    assert (report.deployed.first_divergence is None) == jumps


def test_a_boundary_of_another_shape_is_not_explained():
    report = floats_report(results(a_q=results()["a_q"][:, :3]))
    assert not report.passed and report.deployed.unexplained == 16


@pytest.mark.parametrize(
    ("change", "passed"),
    [(lambda x: x * np.float32(1 + 1e-6), True), (lambda x: x * np.float32(1 + 1e-3), False),
     (lambda x: x * np.float32("nan"), False)],
)
def test_float_logits_have_an_error_bound(change, passed):
    logits = change(results()["logits"])
    report = floats_report(results(logits=logits), float_outputs=("logits",))
    assert report.passed == passed and report.rules[0].passed
    assert [rule.allowed for rule in report.rules] == [0, 0, 0, FLOAT_ROUNDING]
    assert report.to_json()["float_output"]["allowed"] == FLOAT_ROUNDING
    json.dumps(report.to_json(), allow_nan=False)
