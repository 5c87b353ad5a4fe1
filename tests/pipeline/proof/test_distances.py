"""Signal to noise of every output by itself."""

from __future__ import annotations

import numpy as np

from isobit.pipeline.proof.distances import Distances


def test_each_output_has_its_own_distance():
    distances = Distances(("float", "artifact"), ("boxes", "scores"))
    reference = {"boxes": np.float32([[3, 4]]), "scores": np.float32([[1.0]])}
    distances.add({"float": reference, "artifact": {"boxes": np.float32([[3, 4.5]]), "scores": np.float32([[1.0]])}})
    assert distances.decibel == {"boxes": {"artifact": 20.0}, "scores": {"artifact": None}}
    distances.add({"float": reference, "artifact": {"boxes": np.float32([[3, 4.5]]), "scores": np.float32([[0.8]])}})
    assert distances.decibel == {"boxes": {"artifact": 20.0}, "scores": {"artifact": 16.99}}
