"""Signal to noise and cosine of every output by itself, counted once, over all batches."""

import json

import numpy as np
import pytest

from isobit.pipeline.proof.distances import Distances

REFERENCE = {"boxes": np.float32([[3, 4]]), "scores": np.float32([[1.0]])}
NEAR = {"boxes": np.float32([[3, 4.5]]), "scores": np.float32([[1.0]])}


def test_each_output_has_its_own_distance():
    distances = Distances(("float", "artifact"))
    assert distances.outputs == {}
    distances.add({"float": REFERENCE, "artifact": NEAR})
    assert {name: known.signal_to_noise for name, known in distances.outputs.items()} == {
        "boxes": {"artifact": 20.0}, "scores": {"artifact": None}
    }
    distances.add({"float": REFERENCE, "artifact": NEAR | {"scores": np.float32([[0.8]])}})
    found = distances.outputs
    assert found["boxes"].signal_to_noise == {"artifact": 20.0}
    assert found["scores"].signal_to_noise == {"artifact": pytest.approx(10 * np.log10(2 / 0.04), abs=0.01)}
    assert found["scores"].cosine == {"artifact": 1.0} and found["boxes"].shape == (2,)


def test_what_stands_in_parity_json_can_be_written():
    distances = Distances(("float", "calibrated", "artifact"))
    distances.add({"float": REFERENCE, "calibrated": REFERENCE, "artifact": NEAR})
    said = distances.outputs["boxes"].to_json()
    assert said["shape"] == [2] and said["signal_to_noise_db"] == {"calibrated": None, "artifact": 20.0}
    assert said["cosine"]["calibrated"] == 1.0 and json.dumps(said, allow_nan=False)
