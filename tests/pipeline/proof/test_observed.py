"""Samples are described, and tensors that calibration leaves constant are found, unless they always are."""

import numpy as np
import torch
from torch import nn

from isobit.backends.reference import TARGET
from isobit.pipeline.capture.capture import capture
from isobit.pipeline.graph.nodes import quantizer_of
from isobit.pipeline.proof.observed import FOLLOWED, look, look_at, seen_twice, spread
from isobit.pipeline.samples.data import array_batches, open_pool
from tests.examples import tiny


def calibrated_on(images, model=None):
    quantized, _ = tiny.quantized_net(TARGET, "minmax_w8a8", model, images)
    return tiny.calibrate_by_range(quantized, images).graph


def varied(samples=12, seed=0):
    return torch.randn(samples, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_samples_of_calibration_among_those_that_judge_are_counted():
    here, there = (array_batches(varied(6, seed), None, 4, "eval", "arrays") for seed in (0, 1))
    assert seen_twice(here, there) == seen_twice(here, None) == []  # what they are called says nothing
    (note,) = seen_twice(here.select([4, 1]), here.first(4))
    assert note.startswith("1 of the 4 evaluation samples are those of calibration")
    labelled = array_batches(varied(6), torch.arange(6), 4, "eval", "other arrays")
    assert seen_twice(here, labelled)[0].startswith("6 of the 6 ")


def test_samples_of_one_file_are_told_by_their_places(tmp_path):
    np.save(tmp_path / "x.npy", varied(6).numpy())
    np.save(tmp_path / "y.npy", varied(6, seed=1).numpy())
    here, there = (open_pool(tmp_path / f"{name}.npy", batch_size=4, purpose="calib") for name in "xy")
    assert seen_twice(here, there) == seen_twice(here.first(2), here.select([3, 4])) == []
    assert seen_twice(here, here.first(2))[0].startswith("2 of the 2 ")


def test_places_are_spread_and_begin_with_the_first():
    assert spread(3, 8) == [0, 1, 2] and spread(100, 4) == [0, 25, 50, 75] and spread(0, 4) == []


def test_numbers_of_images():
    images = torch.arange(200, dtype=torch.float32).reshape(2, 1, 10, 10)
    found = look_at(images)
    assert (found.samples, found.min, found.max, found.mean) == (2, 0.0, 199.0, 99.5)
    assert (found.low, found.high) == (2.0, 197.0) and not found.identical and found.constant == 0
    assert found.to_json()["std"] == 57.7343


def test_blank_and_repeated_images_are_told_from_others():
    one = varied(1)
    assert look_at(one.repeat(4, 1, 1, 1)).identical and not look_at(one).identical
    blank = torch.tensor([0.1, -2.0, 3.0]).reshape(1, 3, 1, 1).expand(1, 3, 8, 8)  # black, after a normalisation
    mixed = look_at(torch.cat((blank, 2 * blank, varied(2))))
    assert mixed.constant == 0.5 and not mixed.identical
    assert look_at(torch.randn(5, 8, 1, 1)).constant == 0  # features: a channel has one value anyway


def test_tensors_without_content_in_calibration_are_found_in_order():
    images = varied()
    dark = images * 1e-4 - 100  # after the stem nothing is left above zero
    model, _ = tiny.model_and_images()
    with torch.no_grad():
        model.stem.weight.abs_()
        model.norm.running_mean.zero_()
    seen = look(calibrated_on(dark, model), dark, images + 5)
    assert seen.constant and seen.constant[0] == ("relu_q", "") and seen.tensors > len(seen.constant)
    assert look(calibrated_on(images, model), images, images + 5).constant == ()


def test_what_is_constant_in_evaluation_too_is_the_network_s_own():
    model, images = tiny.model_and_images()
    with torch.no_grad():
        model.inner.weight.zero_()
        model.inner.bias.fill_(-1.0)
    graph = calibrated_on(images, model)
    assert look(graph, images, varied(seed=1)).constant == ()
    assert [module for _, module in look(graph, images, None).constant]


class Token(nn.Module):
    """A constant of the network's own beside the input, as a class token is."""

    def __init__(self):
        super().__init__()
        self.token, self.head = nn.Parameter(torch.ones(1, 3, 1, 8)), nn.Linear(3, 4)

    def forward(self, x):
        joined = torch.cat((self.token.expand(x.shape[0], -1, -1, -1), x), 2)
        return self.head(joined.mean((2, 3)))


def test_what_never_depends_on_the_input_is_not_counted():
    images = varied()
    graph = calibrated_on(images, Token().eval())
    assert any(quantizer_of(graph, node) is not None for node in graph.graph.nodes)
    assert look(graph, images, None).constant == ()


def test_the_share_outside_and_sets_that_are_missing():
    graph, images = calibrated_on(varied()), varied()
    assert look(graph, images, images * 1.02).outside == 0.0
    assert look(graph, images.clamp(0, 1), images * 255).outside > 0.9
    missing = look(graph, images[:0], images)
    assert missing.calibration is None and missing.evaluation.samples == 12 and missing.constant == ()


def test_looking_leaves_the_samples_as_they_are_and_follows_a_few():
    images = varied(3 * FOLLOWED)
    kept, graph, runs = images.clone(), calibrated_on(varied()), []
    handle = next(m for m in graph.modules() if m is not graph).register_forward_hook(lambda *a: runs.append(1))
    look(graph, images, None)
    handle.remove()
    assert torch.equal(images, kept) and len(runs) <= FOLLOWED


def test_of_several_inputs_the_first_of_floats_is_told():
    words, image = torch.randint(0, 9, (6, 3)), torch.rand(6, 3, 4, 4)

    class Both(nn.Module):
        def forward(self, words, image):
            return image.mean((1, 2, 3)) + words.sum(1)

    graph = capture(Both(), (words[:1], image[:1])).graph
    seen = look(graph, (words, image), (words[:2], image[:2]))
    assert seen.calibration == look_at(image) and seen.evaluation.samples == 2 and not seen.constant
