"""probe.npz: small, the same for the same network, and right where bits had to be left out."""

import json
from functools import partial

import numpy as np
import pytest
from typer.testing import CliRunner

from isobit.backends.base import BACKENDS
from isobit.backends.device.chosen import chosen_codes
from isobit.backends.device.probe import PROBE, digests_of, read_probe
from isobit.backends.execution.directed import piece_digests
from isobit.cli import app
from isobit.pipeline.graph.ports import input_names
from isobit.shipping.probe import LIMIT, write_probe
from tests.backends.execution.test_reachable import arithmetic_of
from tests.isobit.commands import FAST


def written(folder, name, limit=LIMIT, target="onnx"):
    """The arithmetic of a network, what was chosen for it, whether its probe was written."""
    judged, x = arithmetic_of(target, name)
    chosen = judged.directed(x[:1] if target == "onnx" else x)
    inputs = input_names(judged.execution.graph)
    digests = piece_digests(judged, chosen)
    return judged, chosen, write_probe(folder / PROBE, judged, inputs, chosen, digests, batch=4, limit=limit)


def read(folder, judged, chosen):
    return read_probe(folder, list(chosen.codes), input_names(judged.execution.graph), judged.outputs)


@pytest.mark.parametrize("name", ["squeeze_excite", "depthwise", "gelu"])
def test_a_probe_makes_the_same_codes_and_knows_what_layers_give(tmp_path, name):
    judged, chosen, done = written(tmp_path, name)
    assert done and 0 < (tmp_path / PROBE).stat().st_size < 5000
    probe, results = read(tmp_path, judged, chosen), judged.pieces(chosen.inputs, chosen.codes).results
    assert np.array_equal(probe.inputs["input"], chosen.inputs.numpy())
    for pattern in probe.patterns:
        assert np.array_equal(chosen_codes(pattern), chosen.codes[pattern.name])
    assert any(pattern.up is not None for pattern in probe.patterns)
    assert set(probe.uncertain) == ({"gelu_q"} if name == "gelu" else set())
    assert set(probe.digests) == set(results) - set(probe.uncertain)
    assert all(np.array_equal(wanted, digests_of(results[name])) for name, wanted in probe.digests.items())


def test_the_bytes_are_the_same_again(tmp_path):
    (tmp_path / "again").mkdir()
    written(tmp_path, "relu")
    written(tmp_path / "again", "relu")
    assert (tmp_path / PROBE).read_bytes() == (tmp_path / "again" / PROBE).read_bytes()


def test_inputs_of_integers_are_kept(tmp_path):
    judged, chosen, done = written(tmp_path, "words", target="fixed")
    probe = read(tmp_path, judged, chosen)
    given = list(probe.inputs.values())
    assert done and any(values.dtype == np.int64 for values in given)
    inputs = chosen.inputs if isinstance(chosen.inputs, tuple) else (chosen.inputs,)
    assert all(np.array_equal(mine, theirs.numpy()) for mine, theirs in zip(given, inputs, strict=True))


def test_what_is_too_large_is_left_to_chance_and_worked_out_again(tmp_path):
    judged, chosen, _ = written(tmp_path, "squeeze_excite")
    size, full = (tmp_path / PROBE).stat().st_size, read(tmp_path, judged, chosen)
    _, _, done = written(tmp_path, "squeeze_excite", size - 1)
    probe = read(tmp_path, judged, chosen)
    before, after = ([p.name for p in read_.patterns if p.up is not None] for read_ in (full, probe))
    assert done and (tmp_path / PROBE).stat().st_size < size and len(after) < len(before)
    codes = {pattern.name: chosen_codes(pattern) for pattern in probe.patterns}
    results = judged.pieces(chosen.inputs, codes).results
    assert all(np.array_equal(wanted, digests_of(results[name])) for name, wanted in probe.digests.items())
    assert any(not np.array_equal(wanted, full.digests[name]) for name, wanted in probe.digests.items())


def test_what_cannot_be_small_enough_is_not_written(tmp_path):
    assert not written(tmp_path, "relu", 300)[2] and not (tmp_path / PROBE).exists()


def test_where_nothing_has_one_answer_there_is_no_probe(tmp_path):
    judged, x = arithmetic_of("onnx", "relu")
    chosen = judged.directed(x[:1])
    judged.float_boundaries, judged.float_outputs = tuple(chosen.codes), judged.outputs
    assert not write_probe(tmp_path / PROBE, judged, ["input"], chosen, piece_digests(judged, chosen))


@pytest.mark.onnxruntime
@pytest.mark.parametrize("target", ["onnx", "reference"])
def test_a_build_writes_it_where_the_device_can_probe(command, tmp_path, target):
    assert command("--target", target, recipe=FAST).exit_code == 0
    listed = json.loads((tmp_path / "out" / "manifest.json").read_text())["files"]
    probes = BACKENDS.get(target).probes
    assert (PROBE in listed) == (tmp_path / "out" / PROBE).exists() == probes == (target == "onnx")


@pytest.mark.onnxruntime
def test_a_build_that_writes_none_says_so_and_verify_names_one_that_is_lost(command, tmp_path, monkeypatch):
    assert command("--json", recipe=FAST).exit_code == 0
    (tmp_path / "out" / PROBE).unlink()
    lost = CliRunner().invoke(app, ["verify", str(tmp_path / "out")])
    assert lost.exit_code == 1 and f"{PROBE}: missing\n" in lost.stdout
    monkeypatch.setattr("isobit.shipping.prove.write_probe", partial(write_probe, limit=300))
    result = command("--json", "--overwrite", recipe=FAST)
    notes = json.loads(result.stdout)["notes"]
    assert result.exit_code == 0 and not (tmp_path / "out" / PROBE).exists()
    assert any(note.startswith(f"no {PROBE}: `run.py --probe` cannot run layers") for note in notes)
