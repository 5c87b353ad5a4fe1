"""The picture: a bar for each contender, the same numbers giving the same file."""

import pytest

from isobit.backends.device.timing import Contender
from isobit.bench import plot
from isobit.bench.measure import Measured, Settings
from isobit.bench.plot import check_plot, write_plot
from isobit.pipeline.errors import InputError

TIMES = {"float $x$.onnx": [0.001, 0.0011, 0.0012], "ours": [0.0005, 0.0006, 0.0005]}
MEASURED = Measured(Settings(), [], {name: Contender("runtime", lambda: None) for name in TIMES}, TIMES, {})


def test_bars_are_drawn_alike_with_names_as_they_are(tmp_path):
    pytest.importorskip("matplotlib")
    for name in ("a.svg", "b.svg", "c.png"):
        check_plot(tmp_path / name)
        write_plot(MEASURED, tmp_path / name)
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text() and "float $x$.onnx" in text and "0.500x" in text
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_drawn_is_refused_before_anything_is_timed(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"\.png or \.svg"):
        check_plot(tmp_path / "plot.pdf")
    monkeypatch.setattr(plot, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs matplotlib"):
        check_plot(tmp_path / "plot.svg")
