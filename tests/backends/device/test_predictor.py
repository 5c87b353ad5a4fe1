"""What `predict.py` says of a picture: classes by name, boxes in the picture's own pixels, numbers of anything else."""

import json
import os
import py_compile
import sys

import numpy as np
import pytest
from PIL import Image

from isobit.backends.device import predictor
from isobit.pipeline.artifact.digest import DECODER, MANIFEST
from isobit.pipeline.samples.images import image_steps
from isobit.pipeline.samples.preparation import as_input, record_of

DECODE = """import numpy as np

def decode(outputs, size):
    assert outputs["boxes"].ndim == 2 and size == (24, 32)
    return outputs["boxes"], outputs["scores"][:, 0], np.array([1, 0])
"""


@pytest.fixture
def artifact(tmp_path, monkeypatch):
    """Runs `main` as the script of a folder with this record, on a picture and a network of these outputs."""
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "cat.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(predictor, "__file__", str(tmp_path / "predict.py"))
    seen = []

    def runs(outputs, *arguments, picture="cat.png", **facts):
        record = {"input": "pixels", **record_of(image_steps(resize=(24, 32))), **facts}
        (tmp_path / MANIFEST).write_text(json.dumps({"preprocessing": record}))
        monkeypatch.setattr(sys, "argv", ["predict.py", picture, *arguments])

        def open_model(folder, name):
            seen.append((folder, name))
            return lambda x: seen.append(x) or outputs

        return predictor.predict(open_model), seen

    return runs


def test_the_network_sees_what_a_build_sees(artifact, tmp_path):
    status, seen = artifact({"logits": np.zeros((1, 3), np.float32)})
    assert status == 0 and seen[0] == (tmp_path, "pixels")
    assert np.array_equal(seen[1][0], as_input(Image.open(tmp_path / "cat.png"), image_steps(resize=(24, 32))))


def test_five_classes_the_likeliest_first(artifact, capsys):
    artifact({"logits": np.array([[1, 7, 3, 2, 0, 5]], np.float32)}, classes=list("abcdef"))
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[1:] for row in rows] == [["1", "b"], ["5", "f"], ["2", "c"], ["3", "d"], ["0", "a"]]
    artifact({"logits": np.array([[1, 7]], np.float32)})
    assert [line.split()[1:] for line in capsys.readouterr().out.splitlines()] == [["1"], ["0"]]


def test_other_outputs_are_summed_up(artifact, capsys):
    artifact({"map": np.arange(8, dtype=np.float32).reshape(1, 2, 4), "n": np.ones((1, 2), np.float32)})
    assert capsys.readouterr().out.splitlines() == [
        "map: 1x2x4, least 0, mean 3.5, most 7", "n: 1x2, least 1, mean 1, most 1"]


def test_boxes_are_printed_and_drawn_in_the_pictures_pixels(artifact, capsys, tmp_path):
    (tmp_path / DECODER).write_text(DECODE)
    outputs = {"boxes": np.array([[[0, 0, 16, 12], [8, 6, 24, 18]]], np.float32),
               "scores": np.array([[[0.6], [0.9]]], np.float32)}
    assert artifact(outputs, decoder="decode", classes=["face", "cat"])[0] == 0
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.split() == ["16.0", "12.0", "48.0", "36.0", "face", "0.90"]
    assert second.split() == ["0.0", "0.0", "32.0", "24.0", "cat", "0.60"]
    assert last == f"2 boxes with a score of 0.5 or more, drawn into {tmp_path / 'cat.boxes.jpg'}"
    pictures = [Image.open(tmp_path / name).convert("RGB") for name in ("cat.boxes.jpg", "cat.png")]
    drawn, plain = (np.asarray(picture, int) for picture in pictures)
    assert drawn.shape == plain.shape and np.abs(drawn - plain)[12, 16:48].mean() > 40
    before = (tmp_path / "cat.boxes.jpg").read_bytes()
    artifact(outputs, "--score", "0.7", decoder="decode")
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"1 boxes with a score of 0.7 or more, drawn into {tmp_path / 'cat.boxes-2.jpg'}")
    assert (tmp_path / "cat.boxes.jpg").read_bytes() == before


def test_several_pictures_a_folder_for_drawings_and_no_boxes(artifact, capsys, tmp_path):
    (tmp_path / DECODER).write_text(DECODE)
    outputs = {"boxes": np.array([[[0, 0, 16, 12], [8, 6, 24, 18]]], np.float32),
               "scores": np.array([[[0.6], [0.9]]], np.float32)}
    Image.open(tmp_path / "cat.png").save(tmp_path / "dog.png")
    status, seen = artifact(outputs, "gone.png", "dog.png", "--out", "drawn", decoder="decode")
    printed = capsys.readouterr()
    assert status == 1 and "gone.png" in printed.err and len(seen) == 3  # the network is opened once
    assert [line for line in printed.out.splitlines() if line.endswith(":")] == ["cat.png:", "dog.png:"]
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["cat.boxes.jpg", "dog.boxes.jpg"]
    artifact(outputs, "--score", "0.95", decoder="decode")
    assert capsys.readouterr().out == (
        "0 boxes with a score of 0.95 or more, the best has 0.90: nothing is drawn\n")


def test_the_decoder_is_the_file_itself_and_leaves_nothing(tmp_path, monkeypatch):
    """A `__pycache__` makes `isobit verify` fail, and what lies in one would run in place of what was certified."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    (tmp_path / DECODER).write_text("found = __file__, __name__\n")
    assert predictor.imported(tmp_path / DECODER).found == (str(tmp_path / DECODER), "decoder")
    assert [path.name for path in tmp_path.iterdir()] == [DECODER]
    stat, whole = (tmp_path / DECODER).stat(), (tmp_path / DECODER).read_text()
    for text in ("found = 'another file'".ljust(len(whole)), whole):  # of one size and time, as Python compares them
        (tmp_path / DECODER).write_text(text)
        os.utime(tmp_path / DECODER, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        if text != whole:
            py_compile.compile(str(tmp_path / DECODER))
    assert predictor.imported(tmp_path / DECODER).found == (str(tmp_path / DECODER), "decoder")


def test_a_decoder_may_hold_a_dataclass(tmp_path):
    (tmp_path / DECODER).write_text("from dataclasses import dataclass\n\n\n@dataclass\nclass Box:\n    left: int\n")
    assert predictor.imported(tmp_path / DECODER).Box(3).left == 3


def test_a_label_stands_outside_its_box():
    text, size = (0, 2, 30, 10), (100, 80)
    assert predictor.label_place([20, 40, 60, 60], text, size) == (20, 29)
    assert predictor.label_place([90, 4, 99, 30], text, size) == (70, 30)
    assert predictor.label_place([0, 0, 99, 79], text, size) == (0, 70)


def test_letters_grow_with_the_picture(monkeypatch):
    small, middle, large = (predictor.letters((side, side)).getbbox("M")[3] for side in (100, 600, 1800))
    assert 6 <= small < middle and 2.5 < large / middle < 3.5
    old, size = predictor.ImageFont.load_default, object()
    monkeypatch.setattr(predictor.ImageFont, "load_default", lambda *given: size if not given else old(*given, None, 0))
    assert predictor.letters((600, 600)) is size


@pytest.mark.parametrize("picture", ["gone.png", "text.png", "deep.png"])
def test_what_cannot_be_read_is_told_in_a_line(artifact, capsys, tmp_path, picture):
    (tmp_path / "text.png").write_text("no picture")
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(tmp_path / "deep.png")
    status, _ = artifact({}, picture=picture)
    printed = capsys.readouterr()
    assert status == 1 and printed.out == "" and len(printed.err.splitlines()) == 1 and picture in printed.err
