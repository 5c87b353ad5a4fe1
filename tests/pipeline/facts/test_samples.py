"""Samples as pictures, and answers in words: classes with their shares, boxes in shares of the picture, texts."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from isobit.pipeline.facts.samples import CURVE, MOST_SIDE, Reader, as_curve, as_picture, sample_facts
from isobit.pipeline.samples.data import array_batches
from isobit.pipeline.samples.decoder import Decoder

SIZE = (40, 80)  # height, width


def opened(one):
    return Image.open(io.BytesIO(base64.b64decode(one.data)))


@pytest.mark.parametrize(("shape", "mode"), [((1, 8, 9), "L"), ((3, 8, 9), "RGB"), ((8, 9, 3), "RGB"),
                                              ((2, 8, 9), None), ((3, 7, 9), None), ((8, 9), None), ((3, 0, 9), None)])
def test_what_is_a_picture(shape, mode):
    found = as_picture(torch.rand(shape))
    assert (None if found is None else found.mode) == mode
    assert found is None or found.size == (9, 8)


def test_values_beyond_0_to_1_are_spread_over_their_own_range_and_others_stay():
    wide = np.asarray(as_picture(torch.linspace(-3, 5, 64).reshape(1, 8, 8)))
    assert (wide.min(), wide.max()) == (0, 255)
    assert np.asarray(as_picture(torch.full((1, 8, 8), 0.5))).max() == 128
    assert as_picture(torch.full((1, 8, 8), float("nan"))) is not None


def test_classes_have_shares_after_softmax_and_shares_stay_as_they_are():
    reader = Reader(["cat", "dog", "cow", "ant"], None, SIZE)
    found = reader.answer({"y": np.log(np.float32([[0.1, 0.6, 0.2, 0.1]]))})
    assert [(one.label, one.share) for one in found.classes] == [("dog", 0.6), ("cow", 0.2), ("cat", 0.1)]
    scores = {"y": np.float32([[0.1, 0.6, 0.2, 0.1]])}
    assert Reader(["cat", "dog", "cow", "ant"], None, SIZE, {"y"}).answer(scores) == found
    assert reader.answer(scores) != found  # logits may add up to 1, too
    assert reader.answer({"y": np.float32([[np.nan, 1, 2, 3]])}).classes[0].share is None
    assert Reader(None, None, SIZE).answer({"y": np.float32([[0, 1]])}).classes[0].label == "class 1"


def test_scores_in_few_bits_or_of_a_sigmoid_stay_as_they_are_on_both_sides():
    batches = array_batches(torch.rand(1, 3, 8, 12), None, 1, "eval", "made")
    was, now = {"y": np.float32([[0.98, 0.02]])}, {"y": np.float32([[0.97, 0.0]])}  # codes add up to less than 1
    (found,) = sample_facts(batches, [0], [was], [now], Reader(None, None, (8, 12), {"y"}))
    assert [side.classes[0].share for side in (found.before, found.after)] == [0.98, 0.97]


def test_outputs_without_a_choice_say_nothing():
    assert Reader(None, None, SIZE).answer({"y": np.zeros((1, 3, 4, 4), np.float32)}).classes == []


def test_boxes_are_shares_of_the_input_surest_first_cut_off_at_its_edges():
    def decode(outputs, size):
        return [[-8, 10, 40, 20], [0, 0, 80, 50], [1, 1, 2, 2]], [0.6, 0.9, 0.4], [1, 0, 0]

    found = Reader(["cell", "plate"], Decoder(Path("d.py"), "decode", decode), SIZE).answer({"y": np.zeros((1, 2))})
    assert [(box.label, box.corners) for box in found.boxes] == [
        ("cell", [0, 0, 1, 1]), ("plate", [0, 0.25, 0.5, 0.5])]


def test_a_decoder_of_texts_gives_one():
    decoder = Decoder(Path("d.py"), "decode", lambda outputs, size: "hello \ud800")
    assert Reader(None, decoder, SIZE).answer({"y": np.zeros((1, 2))}).text == "hello ?"


def test_samples_show_label_difference_and_both_answers():
    batches = array_batches(torch.rand(2, 3, 8, 12), torch.tensor([1, 0]), 2, "eval", "made")
    was, now = {"y": np.float32([[3, 0]])}, {"y": np.float32([[3, 0.3]])}
    first, second = sample_facts(batches, [4, 9], [was, was], [now, was], Reader(["a", "b"], None, (8, 12)))
    assert (first.truth, first.truth_index, first.width, first.height, first.kind) == ("b", 1, 12, 8, "png")
    assert [one.place for one in (first, second)] == [4, 9] and (first.right(first.before), second.right(
        second.before)) == (False, True)
    assert first.difference == pytest.approx(20.0) and second.difference is None
    assert opened(first).size == (12, 8) and first.before.classes[0].label == "a"


def test_large_pictures_are_stored_small():
    batches = array_batches(torch.rand(1, 3, 400, 800), None, 1, "eval", "made")
    answer = {"y": np.zeros((1, 2), np.float32)}
    (found,) = sample_facts(batches, [0], [answer], [answer], Reader(None, None, (400, 800)))
    assert found.kind == "jpeg" and max(opened(found).size) == MOST_SIDE and found.truth is None
    assert (found.width, found.height) == (800, 400)


@pytest.mark.parametrize(("values", "kind"), [
    (torch.rand(1, 5, 8, 8), "values"), (torch.rand(1, 1, 500), "curve"), (torch.rand(1, 500, 1), "curve"),
    (torch.rand(1, 20), "curve"), (torch.rand(1, 4), "values"), (torch.arange(30)[None], "values"),
    (torch.full((1, 40), torch.nan), "curve"),
])
def test_what_is_no_picture_is_a_curve_or_its_first_numbers(values, kind):
    batches, answer = array_batches(values, None, 1, "eval", "made"), {"y": np.zeros((1, 2), np.float32)}
    (found,) = sample_facts(batches, [7], [answer], [answer], Reader(None, None, (0, 0)))
    assert (found.kind, found.place, found.width, found.is_picture) == (kind, 7, 0, False)
    assert (0 < len(found.curve) <= CURVE) == (kind == "curve") and bool(found.data) == (kind == "values")
    assert found.data.endswith(", ...") == (kind == "values" and values.numel() > 12)


def test_a_long_signal_keeps_its_ends():
    line = torch.zeros(1, 10_000)
    line[0, 1234], line[0, 777] = 3.0, -1.0
    curve = as_curve(line[0])
    assert len(curve) == CURVE and max(curve) == 1000 and min(curve) == 0 and curve.count(250) == CURVE - 2
