"""What is read of probe.npz is what layers are asked for; one that answers otherwise is named."""

import json

import numpy as np
import pytest

from isobit.backends.device.chosen import SAMPLES, chosen_codes, chosen_numbers
from isobit.backends.device.probe import PROBE, digests_of, probe_problems, read_probe
from isobit.pipeline.quant.pattern import Pattern

UP = np.arange(15).reshape(3, 5) % 2 == 0
INPUT = Pattern("x", (3, 5), 0, 255, 128, scale=0.5)
FIRST, SECOND = Pattern("a_q", (3, 5), 0, 255, 128, up=UP), Pattern("b_q", (3,), 0, 15, 0)
MANIFEST = {"tensors": [{"name": "a_q", "module": "stem"}, {"name": "b_q", "module": "head.norm"}]}


def layers(x, codes):
    """What every tensor must be: the input's codes, its sums over the last axis, and twice those."""
    sums = codes["a_q"].astype(np.int64).sum(-1)
    return {"a_q": np.clip(x["x"] / 0.5 + 128, 0, 255).round().astype(np.uint8), "b_q": (sums % 16).astype(np.uint8),
            "y": 2 * codes["b_q"].astype(np.float32)}


def arrays(uncertain=(), **changes):
    codes = {pattern.name: chosen_codes(pattern) for pattern in (FIRST, SECOND)}
    wanted = layers({"x": chosen_numbers(INPUT)}, codes)
    facts = {
        "inputs": [{"name": "x", "pattern": INPUT.facts()}, {"name": "words"}],
        "tensors": [{"pattern": FIRST.facts(), "operator": "quantize", "up": True},
                    {"pattern": SECOND.facts(), "operator": "sum", "up": False}],
        "outputs": [{"name": "y", "operator": "double"}], "uncertain": list(uncertain),
    }
    compared = [name for name in ("a_q", "b_q", "y") if name not in uncertain]
    return {
        "facts": np.frombuffer(json.dumps(facts).encode(), np.uint8), "up": np.packbits(UP),
        "digests": np.stack([digests_of(wanted[name]) for name in compared]),
        "given:words": np.arange(SAMPLES, dtype=np.int64)[:, None], **changes,
    }


def read(folder, names=("a_q", "b_q"), inputs=("x", "words"), outputs=("y",)):
    return read_probe(folder, names, inputs, outputs)


def test_what_was_written_is_read(tmp_path):
    np.savez(tmp_path / PROBE, **arrays())
    probe = read(tmp_path)
    assert np.array_equal(probe.patterns[0].up, UP) and probe.patterns[1].up is None
    assert np.array_equal(probe.inputs["x"], chosen_numbers(INPUT)) and probe.inputs["words"][3] == 3
    assert list(probe.digests) == ["a_q", "b_q", "y"]
    assert probe.operators == {"a_q": "quantize", "b_q": "sum", "y": "double"}


def test_layers_that_are_right_have_no_problem(tmp_path, capsys):
    np.savez(tmp_path / PROBE, **arrays(["b_q"]))
    probe, seen = read(tmp_path), []

    def noted(x, codes):
        seen.append(int(x["words"][0, 0]))
        return layers(x, codes)

    assert probe_problems(probe, noted, MANIFEST) == [] and seen == list(range(SAMPLES))
    assert capsys.readouterr().out.splitlines() == [
        f"layers run by themselves: 2, chosen samples of each: {SAMPLES}",
        "not compared, float operators have no one answer: b_q"]


@pytest.mark.parametrize(("name", "largest", "line"), [
    ("a_q", 255, f"a_q: wrong on 2 of {SAMPLES} chosen samples: quantize of stem"),
    ("b_q", 15, f"b_q: wrong on 1 of {SAMPLES} chosen samples: sum of head.norm"),
    ("y", 30, f"y: wrong on 8 of {SAMPLES} chosen samples: double"),
])
def test_a_layer_that_is_wrong_at_its_largest_value_is_named(tmp_path, name, largest, line):
    np.savez(tmp_path / PROBE, **arrays())

    def saturating(x, codes):
        found = layers(x, codes)
        return {**found, name: found[name] - (found[name] == largest).astype(found[name].dtype)}

    assert probe_problems(read(tmp_path), saturating, MANIFEST) == [line]


def test_a_layer_that_answers_nothing_is_named(tmp_path):
    np.savez(tmp_path / PROBE, **arrays())
    found = probe_problems(read(tmp_path), lambda x, codes: {}, MANIFEST)
    assert [line.split(":")[0] for line in found] == ["a_q", "b_q", "y"]


@pytest.mark.parametrize("names", [
    {"names": ["a_q"]}, {"names": ["a_q", "b_q", "c_q"]}, {"inputs": ["x"]}, {"outputs": ["z"]}])
def test_the_probe_of_another_network_is_refused(tmp_path, names):
    np.savez(tmp_path / PROBE, **arrays())
    with pytest.raises(ValueError, match="does not hold the quantized tensors"):
        read(tmp_path, **names)


@pytest.mark.parametrize("wrong", [
    {"digests": np.zeros((2, SAMPLES, 8), np.uint8)},
    {"digests": np.zeros((3, 0, 8), np.uint8)},
])
def test_a_probe_without_a_digest_for_every_tensor_is_refused(tmp_path, wrong):
    np.savez(tmp_path / PROBE, **arrays(**wrong))
    with pytest.raises(ValueError, match="a digest for every tensor"):
        read(tmp_path)


def test_a_probe_that_compares_nothing_is_refused(tmp_path):
    facts = json.loads(arrays()["facts"].tobytes())
    facts["uncertain"] = ["a_q", "b_q", "y"]
    np.savez(tmp_path / PROBE, **arrays(facts=np.frombuffer(json.dumps(facts).encode(), np.uint8),
                                        digests=np.zeros((0, SAMPLES, 8), np.uint8)))
    with pytest.raises(ValueError, match="a digest for every tensor"):
        read(tmp_path)
