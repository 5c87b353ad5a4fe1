"""The module bench: its Relax baseline computes the program to the bit, and its verdicts follow from the ratios."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import bench_modules
from bench_docs import fill

from backends.fixed_point.lower import lower
from backends.fixed_point.rules import integer_target
from pipeline.errors import TargetError
from tests.backends.fixed_point import oracle
from tests.backends.fixed_point.test_lower import input_codes
from tests.backends.onnx_qdq.cases import frozen


def figures(milliseconds, times):
    """A contender that takes `times[base]` of each base's time."""
    speed = {base: [1 / ratio] * 3 for base, ratio in times.items()}
    return {"ms": [milliseconds] * 3, "speed_over": speed}


MEASURED = {
    "contenders": {
        bench_modules.VNNI: figures(0.2, {bench_modules.ONNX: 0.5, bench_modules.FLOAT: 0.25,
                                          bench_modules.IMPORTED: 1 / 200, bench_modules.RELAX: 1 / 10}),
        bench_modules.AVX2: figures(0.5, {bench_modules.ONNX: 1.25, bench_modules.FLOAT: 1.5}),
        **{name: figures(1.0, {bench_modules.ONNX: 1.0, bench_modules.FLOAT: 1.0})
           for name in (bench_modules.ONNX, bench_modules.FLOAT, bench_modules.IMPORTED, bench_modules.RELAX)},
    },
    "sizes": {8: 400_000, 4: 300_000},
}


def test_verdicts_follow_from_the_ratios():
    verdicts = {row[1]: (row[3], row[4]) for row in bench_modules.judged("resnet20", MEASURED)}
    assert verdicts["tvm, x86-64-vnni, over ONNX Runtime, our artifact"] == ("0.500x", "met")
    assert verdicts["tvm, x86-64-v3, over ONNX Runtime, float"] == ("1.500x", "missed")
    assert verdicts["tvm, x86-64-vnni, over TVM's import of the QDQ file"] == ("200 times", "met")
    assert verdicts["tvm, x86-64-vnni, over Relax integer operators, untuned"] == ("10 times", "missed")
    assert verdicts["bytes of model.so, stripped, 8-bit weights"] == ("400.0 kB", "met")
    assert verdicts["bytes of model.so, stripped, 4-bit weights"] == ("300.0 kB", "missed")


def test_what_was_not_measured_is_not_judged():
    few = {"contenders": {bench_modules.VNNI: MEASURED["contenders"][bench_modules.VNNI]}, "sizes": {}}
    assert bench_modules.judged("resnet18", few) == []


def test_a_processor_without_vnni_measures_its_own_profile(monkeypatch, capsys):
    class Older:
        def target(self, profile):
            if profile == "x86-64-vnni":
                raise TargetError("this processor lacks avx512_vnni")

    monkeypatch.setattr(bench_modules.BACKENDS, "get", lambda name: Older())
    assert bench_modules.runnable(bench_modules.PROFILES) == {bench_modules.AVX2: "x86-64-v3"}
    assert "tvm, x86-64-vnni: not measured: " in capsys.readouterr().out


def test_tables_fit_their_document():
    tables = bench_modules.tables({"resnet20": MEASURED}, "tools/bench_modules.py")
    text = bench_modules.DOCUMENT.read_text(encoding="utf-8")
    filled = fill(text, tables, document="docs/latency.md")
    assert "0.500x" in filled and "tools/bench_modules.py" in filled


@pytest.mark.tvm
@pytest.mark.parametrize("name", ["add", "relu", "max_pool"])
def test_the_relax_baseline_computes_the_program(name):
    pytest.importorskip("tvm")
    reference, images = frozen(name, target=integer_target("test", "any"))
    program = lower(reference)
    run = bench_modules.relax_caller(program, images[:1].numpy())
    _, logits = oracle.run(program, input_codes(program, images[:1]))
    assert np.array_equal(run().numpy().reshape(logits.shape), logits)
