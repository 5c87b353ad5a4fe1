"""Candidates in turns: ratios over the first, those that do not run named with the reason, and JSON for a script."""

import json
from dataclasses import replace

import pytest

from isobit.backends.base import BACKENDS
from isobit.backends.device.replay import CannotCheck
from isobit.backends.device.timing import Contender
from isobit.bench.candidates import Candidate, candidates
from isobit.bench.measure import Settings, measure
from isobit.pipeline.errors import InputError, TargetError
from tests.examples.float_files import write_float

QUICK = Settings(rounds=3, seconds=0.003)


def candidate(name, run=lambda: None, error=None):
    def opened(batch, threads):
        if error is not None:
            raise error
        return Contender("runtime 1.0", run, f"batch {batch}, threads {threads}")

    return Candidate(name, "model", opened, {"sha256": "0"})


def working(amount):
    return lambda: sum(range(amount))


def test_ratios_are_over_the_first_and_the_slower_takes_longer():
    found = measure([candidate("fast", working(2000)), candidate("slow", working(40000))], QUICK)
    assert found.base == "fast" and list(found.times) == ["fast", "slow"] and not found.missing
    fast, slow = found.to_json()["contenders"]
    assert fast["time_over_base"] == [1.0, 1.0, 1.0]
    low, ratio, high = slow["time_over_base"]
    assert 5 < low <= ratio <= high and slow["ms"][1] > fast["ms"][1]
    assert len(found.rows()) == 2 and len(found.rows()[0]) == len(found.columns())


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (CannotCheck("another processor"), "another processor"),
        (ValueError("model.onnx: changed since it was built"), "model.onnx: changed since it was built"),
        (TargetError("no such target", hint="Install it."), "no such target (Install it.)"),
        (RuntimeError("of the runtime\nin lines"), "RuntimeError: of the runtime"),
    ],
)
def test_what_does_not_run_is_named_and_the_rest_go_on(error, why):
    found = measure([candidate("broken", error=error), candidate("good")], Settings(2, 4, 2, 0.0))
    assert found.missing == {"broken": why} and found.base == "good"
    told = found.to_json()
    assert told["not_measured"] == [{"name": "broken", "why": why}] and told["clock"] == "wall"
    assert told["contenders"][0]["note"] == "batch 4, threads 2" and (told["threads"], told["batch"]) == (2, 4)


def test_what_fails_when_it_runs_is_named_too():
    found = measure([candidate("fails", lambda: 1 // 0), candidate("good")], QUICK)
    assert found.missing == {"fails": "ZeroDivisionError: integer division or modulo by zero"}
    assert found.failed == ["fails"]


def test_what_need_not_run_has_not_failed():
    found = measure([replace(candidate("extra", error=CannotCheck("no")), required=False), candidate("good")], QUICK)
    assert found.missing == {"extra": "no"} and found.failed == []


def test_where_nothing_runs_that_is_an_error_with_all_reasons():
    with pytest.raises(InputError, match="nothing could be measured(.|\n)*one: no; other: neither") as told:
        measure([candidate("one", error=CannotCheck("no")), candidate("other", error=CannotCheck("neither"))], QUICK)
    assert told.value.exit_code == 2


def test_an_artifact_and_a_float_model_are_measured_and_a_damaged_one_is_not(artifact, tmp_path):
    source = write_float(tmp_path / "float.onnx", batch=1)
    found = measure(candidates([source, artifact], "quantize_static", tmp_path), QUICK)
    assert list(found.times) == ["float.onnx", "artifact", "quantize_static"]
    told = json.loads(json.dumps(found.to_json()))
    assert told["packages"]["onnxruntime"] and told["processor"] and told["base"] == "float.onnx"
    assert [entry["kind"] for entry in told["contenders"]] == ["model", "artifact", "peer"]
    (artifact / "model.onnx").write_bytes(b"")
    again = measure(candidates([source, artifact], None, tmp_path), QUICK)
    assert again.missing == {"artifact": "model.onnx: changed since it was built"}


def test_a_target_that_is_not_deployed_is_refused_with_a_hint():
    def opened(batch, threads):
        return BACKENDS.get("reference").contender(None, batch, threads)

    found = measure([candidate("good"), Candidate("paper", "artifact", opened)], QUICK)
    assert "PyTorch alone" in found.missing["paper"] and "build for a target that is deployed" in found.missing["paper"]
