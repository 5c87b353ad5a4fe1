"""A small recipe file, to be spoiled in one place."""

import pytest

MINIMAL = """\
name: own
weights:     {bits: 4, symmetric: true, granularity: per_channel, range: mse}
activations: {bits: 8, symmetric: false, granularity: per_tensor, range: minmax}
placement: paper
images: {source: files, count: 64, batch_size: 16}
method: {name: qdrop, steps: 100, keep_prob: 0.5}
seed: 3
"""


@pytest.fixture
def write(tmp_path):
    """Writes a recipe file, MINIMAL with one piece of text replaced, and returns its path."""

    def write_one(old="", new=""):
        assert old in MINIMAL
        path = tmp_path / "own.yaml"
        path.write_text(MINIMAL.replace(old, new) if old else MINIMAL)
        return path

    return write_one
