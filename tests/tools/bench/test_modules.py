"""The module bench: the best profile is measured, and its table is made of the ratios, a run for each processor."""


import pytest

from isobit.backends.device.processor import description, read_cpuinfo
from isobit.backends.device.replay import CannotCheck
from isobit.backends.device.timing import Contender
from isobit.pipeline.errors import TargetError
from tools.bench import modules as bench_modules
from tools.documents import fill, read_json


def figures(milliseconds, times):
    """A contender that takes `times[base]` of each base's time."""
    speed = {base: [1 / ratio] * 3 for base, ratio in times.items()}
    return {"ms": [milliseconds] * 3, "speed_over": speed}


VNNI, NARROW = (bench_modules.titled(bench_modules.VNNI, width) for width in ("W8A8", "W4A4"))
PEER = "OpenVINO, int8 (NNCF)"
MEASURED = {
    "contenders": {
        VNNI: figures(0.2, {bench_modules.ONNX: 0.5, bench_modules.FLOAT: 0.25, PEER: 0.5,
                            bench_modules.IMPORTED: 1 / 200, bench_modules.RELAX: 1 / 10}),
        NARROW: figures(0.3, {bench_modules.ONNX: 0.75, bench_modules.FLOAT: 0.9, VNNI: 0.6}),
        PEER: figures(0.4, {bench_modules.FLOAT: 0.8}),
        **{name: figures(1.0, {bench_modules.ONNX: 1.0, bench_modules.FLOAT: 1.0})
           for name in (bench_modules.ONNX, bench_modules.FLOAT, bench_modules.IMPORTED, bench_modules.RELAX)},
    },
}


def content_of(**found):
    return {"runs": [bench_modules.run_of(found, "tools/bench/modules.py")]}


def test_every_contender_is_kept_with_its_ratios():
    (run,) = content_of(resnet20=MEASURED)["runs"]
    lines = {line["contender"]: line for line in run["contenders"]}
    assert lines[VNNI] == {
        "network": "resnet20", "contender": VNNI, "ms": 0.2, "quartiles": [0.2, 0.2],
        "over_our_onnx": 0.5, "over_float": 0.25, "over_fastest_other": 0.5,
        "times_as_fast": {bench_modules.IMPORTED: 200, bench_modules.RELAX: 10},
    }
    assert lines[PEER]["over_float"] == 0.8 and not {"times_as_fast", "over_w8a8"} & lines[PEER].keys()
    assert lines[NARROW]["over_w8a8"] == 0.6


def test_what_was_not_measured_has_no_number_in_the_table():
    few = content_of(resnet18={"contenders": {VNNI: MEASURED["contenders"][VNNI]}})
    assert bench_modules.rows(few, ("W8A8", "W4A4")) == [("ResNet-18", "x86-64-vnni", "0.200 (0.250)", "–")]
    assert bench_modules.rows(few, (PEER,)) == [("ResNet-18", "x86-64-vnni", "–")]


def test_a_run_replaces_that_of_its_processor_alone(monkeypatch):
    first = content_of(resnet20=MEASURED)
    here = description(read_cpuinfo())
    monkeypatch.setattr(bench_modules, "is_hidden", lambda: True)
    (hidden,) = content_of(resnet20=MEASURED)["runs"]
    assert hidden["processor"] == here + ", AVX-512 hidden"
    both = bench_modules.joined(first, hidden)
    assert [run["processor"] for run in both["runs"]] == [here, hidden["processor"]]
    again = bench_modules.joined(both, hidden | {"command": "another"})
    assert again["runs"] == [*first["runs"], hidden | {"command": "another"}]


@pytest.mark.parametrize(("runs", "hidden", "title"), [
    (("x86-64-vnni", "x86-64-avxvnni", "x86-64-v3"), False, bench_modules.VNNI),
    (("x86-64-avxvnni", "x86-64-v3"), False, bench_modules.AVX_VNNI), (("x86-64-v3",), False, bench_modules.AVX2),
    (("x86-64-vnni", "x86-64-v3"), True, bench_modules.AVX2), ((), False, None),
])
def test_the_best_profile_that_runs_is_measured(monkeypatch, capsys, runs, hidden, title):
    class Machine:
        def target(self, profile):
            if profile not in runs:
                raise TargetError("this processor lacks something")

    monkeypatch.setattr(bench_modules.BACKENDS, "get", lambda name: Machine())
    monkeypatch.setattr(bench_modules, "is_hidden", lambda: hidden)
    assert bench_modules.best_profile(bench_modules.PROFILES) == title
    assert ("x86-64-vnni: not measured: " in capsys.readouterr().out) == ("x86-64-vnni" not in runs)


def test_a_peer_that_is_missing_is_named_and_the_others_are_measured(monkeypatch, capsys, tmp_path):
    def missing(*rest):
        raise CannotCheck("not installed")

    monkeypatch.setattr(bench_modules, "open_peer", lambda *rest: Contender("runtime", int))
    monkeypatch.setattr(bench_modules, "open_quantized_litert", missing)
    found = bench_modules.peer_callers(None, tmp_path, tmp_path)
    assert found == dict.fromkeys(bench_modules.PEER_TITLES.values(), int)
    assert capsys.readouterr().out == "LiteRT, int8: not measured: not installed\n"


def test_tables_fit_their_document():
    content = content_of(resnet20=MEASURED)
    text = bench_modules.DOCUMENT.read_text(encoding="utf-8")
    filled = fill(text, bench_modules.tables(content), document="docs/latency.md")
    assert "`tools/bench/modules.py`, " in filled
    ours, others = "0.200 (0.250) | – | – | 0.300 (0.900)", "1.000 | 1.000 | – | 0.800 | –"
    assert f"| ResNet-20 | x86-64-vnni | {ours} | {others} |" in filled


def test_the_page_is_what_its_numbers_give():
    text = bench_modules.DOCUMENT.read_text(encoding="utf-8")
    content = read_json(bench_modules.DOCUMENT.with_suffix(".json"))
    assert fill(text, bench_modules.tables(content), document="docs/latency.md") == text
