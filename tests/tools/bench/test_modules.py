"""The module bench: its Relax baseline computes the program to the bit, and its tables are made of the ratios."""


import numpy as np
import pytest

from isobit.backends.fixed_point.lower import lower
from isobit.backends.fixed_point.rules import integer_target
from isobit.pipeline.errors import TargetError
from tests.backends.fixed_point import oracle
from tests.backends.fixed_point.test_lower import input_codes
from tests.examples.onnx_cases import frozen
from tools.bench import modules as bench_modules
from tools.documents import fill, read_json


def figures(milliseconds, times):
    """A contender that takes `times[base]` of each base's time."""
    speed = {base: [1 / ratio] * 3 for base, ratio in times.items()}
    return {"ms": [milliseconds] * 3, "speed_over": speed}


VNNI, AVX2, NARROW = (bench_modules.titled(profile, width) for profile, width in (
    (bench_modules.VNNI, "W8A8"), (bench_modules.AVX2, "W8A8"), (bench_modules.AVX2, "W4A4")))
PEER = "OpenVINO, int8 (NNCF)"
MEASURED = {
    "contenders": {
        VNNI: figures(0.2, {bench_modules.ONNX: 0.5, bench_modules.FLOAT: 0.25,
                            bench_modules.IMPORTED: 1 / 200, bench_modules.RELAX: 1 / 10}),
        AVX2: figures(0.5, {bench_modules.ONNX: 1.25, bench_modules.FLOAT: 1.5}),
        NARROW: figures(0.3, {bench_modules.ONNX: 0.75, bench_modules.FLOAT: 0.9, AVX2: 0.6}),
        PEER: figures(0.4, {bench_modules.FLOAT: 0.8}),
        **{name: figures(1.0, {bench_modules.ONNX: 1.0, bench_modules.FLOAT: 1.0})
           for name in (bench_modules.ONNX, bench_modules.FLOAT, bench_modules.IMPORTED, bench_modules.RELAX)},
    },
}


def test_every_contender_is_kept_with_its_ratios():
    content = bench_modules.numbers({"resnet20": MEASURED}, "a command")
    lines = {line["contender"]: line for line in content["contenders"]}
    assert lines[VNNI] == {
        "network": "resnet20", "contender": VNNI, "ms": 0.2, "quartiles": [0.2, 0.2],
        "over_our_onnx": 0.5, "over_float": 0.25,
        "times_as_fast": {bench_modules.IMPORTED: 200, bench_modules.RELAX: 10},
    }
    assert lines[AVX2]["over_float"] == 1.5 and not {"times_as_fast", "over_w8a8"} & lines[AVX2].keys()
    assert lines[NARROW]["over_w8a8"] == 0.6


def test_what_was_not_measured_has_no_place_in_the_table():
    few = {"contenders": {VNNI: MEASURED["contenders"][VNNI]}}
    content = bench_modules.numbers({"resnet18": few}, "a command")
    assert bench_modules.rows(content, (bench_modules.FLOAT, VNNI, AVX2)) == [("ResNet-18", "–", "0.200 (0.250x)", "–")]
    assert bench_modules.width_rows(content) == [("ResNet-18", "x86-64-vnni", "0.200 (0.250x)", "–", "–", "–")]
    assert PEER not in bench_modules.tables(content)["modules"]


def test_a_processor_without_vnni_measures_its_own_profile(monkeypatch, capsys):
    class Older:
        def target(self, profile):
            if profile == "x86-64-vnni":
                raise TargetError("this processor lacks avx512_vnni")

    monkeypatch.setattr(bench_modules.BACKENDS, "get", lambda name: Older())
    assert bench_modules.runnable(bench_modules.PROFILES) == {bench_modules.AVX2: "x86-64-v3"}
    assert "tvm, x86-64-vnni: not measured: " in capsys.readouterr().out


def test_tables_fit_their_document():
    content = bench_modules.numbers({"resnet20": MEASURED}, "tools/bench/modules.py")
    text = bench_modules.DOCUMENT.read_text(encoding="utf-8")
    filled = fill(text, bench_modules.tables(content), document="docs/latency.md")
    assert "0.200 (0.250x)" in filled and "`tools/bench/modules.py`, " in filled
    assert "| ResNet-20 | x86-64-v3 | 0.500 (1.500x) | – | – | 0.300 (0.900x) |" in filled
    assert f"our artifact | {PEER} |" in filled
    assert "| ResNet-20 | 1.000 (1.000x) | 1.000 (1.000x) | 0.400 (0.800x) |" in filled


def test_the_page_is_what_its_numbers_give():
    text = bench_modules.DOCUMENT.read_text(encoding="utf-8")
    content = read_json(bench_modules.DOCUMENT.with_suffix(".json"))
    assert fill(text, bench_modules.tables(content), document="docs/latency.md") == text


@pytest.mark.tvm
@pytest.mark.parametrize("name", ["add", "relu", "max_pool"])
def test_the_relax_baseline_computes_the_program(name):
    pytest.importorskip("tvm")
    reference, images = frozen(name, target=integer_target("test", "any"))
    program = lower(reference)
    run = bench_modules.relax_caller(program, images[:1].numpy())
    _, logits = oracle.run(program, input_codes(program, images[:1]))
    assert np.array_equal(run().numpy().reshape(logits.shape), logits)
