"""Random builds: none of a slice is a finding, and what is one is told with the way to repeat it."""

import pytest

from tools.fuzz import fuzz
from tools.fuzz.fuzz import DIED, FAILED, HELD, INTERNAL, REFUSED, Case, Finding, Verdict, build, draw_case
from tools.fuzz.networks import Plan

pytestmark = pytest.mark.onnxruntime
LINEAR = ("linear", [0], {"channels": 2, "seed": 0, "scale": 1.0, "bias": True, "dead": False, "outlier": False})


def case(*steps, target="onnx"):
    return Case(repr([[[4]], list(steps), [len(steps)], "normal", 1.0]), "minmax_w8a8", target)


@pytest.mark.parametrize("target", ["onnx", "onnx-qoperator", "reference"])
def test_a_slice_of_random_networks_holds(target):
    seeds = range({"onnx": 0, "onnx-qoperator": 100, "reference": 201}[target], 1000)[:6]
    found = [(seed, build(draw_case(seed, target))) for seed in seeds]
    assert not [(seed, verdict) for seed, verdict in found if verdict.kind not in (HELD, REFUSED)]
    assert [verdict.kind for _, verdict in found].count(HELD) > 3


def test_a_case_depends_on_its_seed_alone():
    assert draw_case(7) == draw_case(7) and draw_case(7, "c").network == draw_case(7).network
    assert len({draw_case(seed).target for seed in range(40)}) == len(fuzz.TARGETS)


def test_refusals_are_told_without_names_and_numbers():
    verdict = build(case(("relu", [0], {})))
    reason = "annotate: the model has no convolution or linear layer to quantize"
    assert verdict == Verdict(REFUSED, reason, verdict.text)


def test_what_is_no_compile_error_is_a_finding(monkeypatch):
    def broken(*arguments):
        raise KeyError("gone")

    monkeypatch.setattr(fuzz, "compile_model", broken)
    verdict = build(case(LINEAR))
    assert verdict.kind == INTERNAL and "gone" in verdict.text
    assert verdict.reason.startswith("KeyError at test_fuzz.py:")


class Answers:
    """In the place of a worker: what has a floor fails, in whatever recipe."""

    def __init__(self, work, seconds):
        self.asked = []

    def ask(self, asked):
        self.asked.append(asked)
        bad = any(step.op == "floor" for step in Plan.of(asked.network).steps)
        return fuzz.Answer(Verdict(FAILED, "parity", "why") if bad else Verdict(REFUSED, "no floor"), "", 1.5)

    def end(self):
        pass


def test_findings_are_made_small_and_told(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(fuzz, "Worker", Answers)
    monkeypatch.setattr(fuzz, "draw_case", lambda seed, target, profile: case(
        LINEAR, ("floor", [1], {}) if seed == 3 else ("ceil", [1], {}), ("relu", [2], {}), target="c"))
    told = tmp_path / "found.json"
    assert fuzz.main(["--seed", "2", "--count", "3", "--json", str(told)]) == 1
    shown = capsys.readouterr().out
    assert "failed: seed 3, minmax_w8a8, c: parity" in shown and "--seed 3 --count 1 --target c" in shown
    assert "shortest: minmax_w8a8, c, [[[1]], [('floor', [0], {})], [1], 'normal', 1.0]" in shown
    assert "refused     2 x  c: no floor" in shown and "4 processor seconds" in shown
    assert '"network": "[[[1]], [(' in told.read_text()


def test_a_process_that_died_is_a_finding():
    class Dead:
        def ask(self, asked):
            return fuzz.Answer(None, "ended by SIGSEGV")

    verdict, _ = fuzz.judge(Dead(), case(LINEAR))
    assert verdict == Verdict(DIED, "ended by SIGSEGV")
    assert "ended by SIGSEGV" in fuzz.described(Finding(1, case(LINEAR), verdict, case(LINEAR)))


@pytest.mark.parametrize("function", ["log1p", "expm1"])
def test_functions_that_are_one_next_to_nothing_keep_their_digits(function):
    """Found by seed 1013: log(x + 1) and exp(x) - 1 in float32 lose all of x = 1e-6."""
    network = [[[6]], [(function, [0], {}), ("linear", [1], LINEAR[2])], [2], "normal", 1e-6]
    assert build(Case(repr(network), "minmax_w8a8", "onnx")) == Verdict(HELD)


LAYER = {"channels": 2, "seed": 1, "scale": 1.0, "bias": False, "dead": False, "outlier": False}
MAP = {**LAYER, "groups": 1, "kernel": [1, 1], "stride": [1, 1], "padding": [0, 0], "dilation": [1, 1]}
POOL = {"kernel_size": 3, "stride": 3, "padding": 1, "ceil_mode": False, "dilation": 2}


@pytest.mark.parametrize(("target", "sizes", "steps", "kind"), [
    # Next to a jump, codes of two libraries are a jump apart.
    ("onnx", [4, 7, 5], [("logsigmoid", [0], {}), ("floor", [1], {}), ("tanh", [2], {}), ("conv2d", [3], MAP)], HELD),
    # Outputs in float: a gate of a logarithm of next to nothing, and numbers for which GELU is next to 0.
    ("onnx", [7], [("linear", [0], {**LAYER, "scale": 1e6}), ("log", [1], {}), ("chunk", [2], {"gate": True})], HELD),
    ("onnx", [3, 9, 9], [("conv2d", [0], {**MAP, "scale": 1e3}), ("gelu", [1], {})], HELD),
    # 0 * -1 of integers is 0 and not -0.
    ("onnx", [7], [("linear", [0], {**LAYER, "channels": 1}), ("linear", [1], LAYER)], HELD),
    # Of a window that would begin in the padding torch makes none.
    ("onnx", [3, 9, 9], [("conv2d", [0], MAP), ("max_pool", [1], {**POOL, "kernel_size": 2, "padding": 0,
                                                                  "ceil_mode": True, "dilation": 1})], HELD),
    # A mirrored map that leaves goes back from pixel to pixel.
    ("c", [4, 7, 5], [("conv2d", [0], MAP), ("cat", [1, 1], {}), ("flip", [2], {"dim": 1})], HELD),
    # Of a dilated window that begins outside, the pixel at the edge is no part.
    ("tvm", [3, 3, 9], [("conv2d", [0], MAP), ("max_pool", [1], POOL)], HELD),
    # ONNX Runtime's sum of codes and a constant leaves int32.
    ("onnx-qoperator", [1, 1, 5], [("conv2d", [0], {**MAP, "scale": 1e6}), ("hardswish", [1], {})], REFUSED),
])
def test_what_was_found_stays_mended(target, sizes, steps, kind):
    if target == "tvm":
        pytest.importorskip("tvm")
    found = build(Case(repr([[sizes], steps, [len(steps)], "normal", 1000.0]), "minmax_w8a8", target))
    assert found.kind == kind, found.text
