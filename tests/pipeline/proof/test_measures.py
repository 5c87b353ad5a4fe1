"""Which metrics a build was asked for: by name or from a user's file, whose mistakes are told with their line."""

import numpy as np
import pytest
import torch

from isobit.pipeline.capture.capture import capture
from isobit.pipeline.errors import InputError
from isobit.pipeline.proof.measures import Guarded, Measures, find_measures, rehearse, rehearse_gate
from isobit.pipeline.samples.data import array_batches
from isobit.pipeline.samples.decoder import load_decoder
from tests.examples import tiny

OWN = """import numpy as np

def largest(outputs, target):
    return np.abs(outputs["out"] - np.asarray(target)).max(axis=1)

largest.unit, largest.higher_is_better = "V", False

def first(outputs, target):
    return float(outputs["out"][0, 0])

def near(outputs, target):
    return 1 - abs(outputs["out"] - target["out"]).mean()

near.against = "float"

def count(found, target):
    return [len(one.boxes) for one in found]

count.decoded = True

def two(outputs, target):
    return [1.0, 2.0]

def nothing(outputs, target):
    return None

def text(outputs, target):
    return "good"

def never(outputs, target):
    return float("nan")

def later(outputs, target):
    return 1.0 if len(target) > 2 else float("nan")

def alone(outputs):
    return 1.0

def fails(outputs, target):
    return outputs["absent"]

def leaves(outputs, target):
    raise SystemExit(3)

def top1(outputs, target):
    return 1.0

def astray(outputs, target):
    return 1.0

astray.against = "moon"

class Count:
    def __init__(self):
        self.seen = 0

    def update(self, outputs, target):
        self.seen += len(outputs["out"])

    def compute(self):
        return self.seen

class Half:
    def update(self, outputs, target):
        pass

class Wordy(Count):
    def compute(self):
        return "many"

class Wanting(Count):
    def __init__(self, stages):
        super().__init__()

def boxes(outputs, size):
    return np.zeros((2, 4)), np.ones(2), np.zeros(2)
"""
OUT = {"out": np.float32([[1, 2], [3, 4], [5, 6]])}


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return lambda name: f"{path}:{name}"


def measured(measures, *batches):
    (metric,) = measures.metrics
    made = Guarded(metric)
    for outputs, target in batches:
        made.update(outputs, target)
    return made.compute()


def test_a_function_gives_a_mean_over_samples_however_they_are_batched(own):
    target, measures = np.zeros((3, 2)), find_measures([own("largest")])
    batches = [({"out": OUT["out"][:2]}, target[:2]), ({"out": OUT["out"][2:]}, target[2:])]
    assert measured(measures, (OUT, target)) == measured(measures, *batches) == 4.0
    (metric,) = measures.metrics
    assert (metric.title, metric.unit, metric.higher_is_better, metric.against) == ("largest", "V", False, "target")
    assert metric.loss(1.0, 1.5) == 0.5


def test_one_number_for_a_batch_weighs_as_many_samples_as_it_has(own):
    batches = [({"out": OUT["out"][:2]}, None), ({"out": OUT["out"][2:]}, None)]
    assert measured(find_measures([own("first")]), *batches) == pytest.approx((2 * 1 + 5) / 3)


def test_a_class_counts_as_it_likes(own):
    assert measured(find_measures([own("Count")]), (OUT, None), (OUT, None)) == 6.0


def test_a_function_may_compare_with_float_and_needs_no_target_then(own):
    measures = find_measures([own("near")])
    assert measures.metrics[0].against == "float" and measures.held is None
    measures.check(None, None)
    assert measured(measures, (OUT, OUT)) == 1.0


@pytest.mark.parametrize(("name", "words", "line"), [
    ("two", "returns 2 numbers for 3 samples", ""), ("nothing", "returns NoneType", ""), ("text", "returns str", ""),
    ("fails", "the metric 'fails' fails: KeyError", "own.py:40"), ("leaves", "the metric 'leaves' fails", "own.py:43"),
    ("Wordy", "the metric 'Wordy' fails: ValueError", ""), ("Wanting", "the metric 'Wanting' fails: TypeError", ""),
])
def test_a_metric_that_fails_or_returns_no_number_is_told_with_its_line(own, name, words, line):
    with pytest.raises(InputError, match=words) as error:
        measured(find_measures([own(name)]), (OUT, None))
    assert error.value.field == "options.metrics" and line in error.value.where


@pytest.mark.parametrize(("name", "words"), [
    ("larges", "there is no 'larges' in it"), ("Half", "the class 'Half' is no metric"), ("np", "not callable"),
    ("top1", "there is a metric 'top1' already"), ("astray", "compares with 'moon'"),
    ("alone", "the function cannot be called: too many"), ("", "names no function"),
])
def test_what_is_no_metric_is_refused_before_anything_is_built(own, name, words):
    with pytest.raises(InputError, match=words) as error:
        find_measures([own(name)])
    assert error.value.field == "options.metrics"


def test_names_that_nobody_has_and_names_given_twice(own):
    with pytest.raises(InputError, match="there is no metric 'top3'") as error:
        find_measures(["top3"])
    assert "top5" in error.value.allowed and error.value.field == "options.metrics"
    with pytest.raises(InputError, match="named twice") as error:
        find_measures(["top1", "cosine", "top1"])
    assert error.value.allowed and "Name each once" in error.value.hint


def test_what_reads_boxes_needs_a_decoder(own):
    with pytest.raises(InputError, match="reads what a decoder makes") as error:
        find_measures([own("count")])
    assert error.value.field == "options.decoder"
    measures = find_measures([own("count")], load_decoder(own("boxes")))
    decoded = measures.decoded(OUT)
    assert [len(one.boxes) for one in decoded] == [2, 2, 2] and measured(measures, (decoded, [0] * 3)) == 2.0


def test_the_first_that_compares_with_targets_is_held_to_them(own):
    assert find_measures(["cosine", "top5", "top1"]).held.name == "top5"
    assert find_measures(["cosine", "signal_to_noise"]).held is None
    assert not find_measures(["mean_absolute_error"]).judge_labels and find_measures([]).judge_labels
    assert find_measures(["top5"]).judge_labels and not find_measures([own("first")]).judge_labels


def test_targets_and_gates_are_asked_for_before_calibration(own):
    labels = torch.tensor([0, 1])
    with pytest.raises(InputError, match="the metric 'top5' compares with targets, and there are none") as error:
        find_measures(["cosine", "top5"]).check(None, None)
    assert error.value.field == "evaluation"
    for measures in (Measures(), find_measures(["cosine"])):
        measures.check(labels, 1.0)
        with pytest.raises(InputError, match="an accuracy gate needs labels"):
            measures.check(None, 1.0)
    find_measures(["mean_absolute_error"]).check(torch.rand(2, 1), 1.0)
    for amount in (float("nan"), float("inf"), -1.0):
        with pytest.raises(InputError, match="cannot be held to a drop") as error:
            Measures().check(labels, amount)
        assert error.value.field == "options.max_drop" and error.value.allowed


def test_without_targets_floats_answers_serve_metrics_that_can_take_them(own):
    measures = find_measures(["f1:threshold=0.2"])
    measures.check(None, 1.0)
    with pytest.raises(InputError, match="compares with targets, and there are none"):
        measures.check(None, 1.0, samples=False)
    assert find_measures([]).notes([{"boxes": []}]) == find_measures(["cosine"]).notes(torch.zeros(2, 3))
    assert "not compared" in find_measures([]).notes(torch.zeros(2))[0]
    assert not find_measures([]).notes(torch.tensor([0, 1])) and not measures.notes(torch.zeros(2, 3))
    assert not find_measures([]).notes(None)


@pytest.mark.parametrize(("text", "allowed"), [
    ("f1:threshold", "threshold=0.5, output=''"), ("f1:threshold=inf", "threshold=0.5"), ("map:score=x", "score=0.3"),
    ("top1:k=5", "no parameters"), ("f1:threshold=1,,", "output=''"),
])
def test_parameters_that_a_metric_does_not_take_are_refused(text, allowed):
    with pytest.raises(InputError, match="takes no") as error:
        find_measures([text])
    assert allowed in error.value.allowed and error.value.field == "options.metrics"


def test_a_gate_wants_a_number_before_calibration(own):
    model, images = tiny.model_and_images(samples=6)
    graph, seen = capture(model, images[:1]).graph, array_batches(images, torch.arange(6), 4, "eval", "here")
    never, later = find_measures([own("never")]), find_measures([own("later")])
    rehearse_gate(never, graph, seen, True, None)
    rehearse_gate(later, graph, seen, True, 1.0)  # two samples say nothing, six do
    with pytest.raises(InputError, match="'never' gives no finite number for the float network, on 6") as error:
        rehearse_gate(never, graph, seen, True, 1.0)
    assert error.value.field == "options.metrics" and error.value.allowed


@pytest.mark.parametrize(("names", "shape", "target", "kind"), [
    ((), (2, 5), None, "classes"), ((), (2, 4420, 4), None, "values"), ((), (2, 3, 4, 4), None, "values"),
    ((), (2, 3, 4, 4), torch.zeros(2, dtype=torch.int64), "values"),
    ((), (2, 3, 4, 4), torch.full((2, 4, 4), 255), "maps"), ((), (2, 3, 4, 4), torch.full((2, 4, 4), 3), "values"),
    ((), (2, 3, 4, 4), torch.zeros(2, 4, 4), "values"), ((), (2, 3, 4, 4), [{"boxes": []}] * 2, "values"),
    (("mean_iou",), (2, 3, 4, 4), None, "maps"), (("cosine",), (2, 3, 4, 4), None, "values"),
    (("mean_iou",), (2, 1, 4, 4), None, "values"),
])
def test_classes_at_positions_are_what_a_metric_or_labels_say(names, shape, target, kind):
    assert find_measures(names).kind_of(shape, target) == kind


def test_everything_is_tried_on_the_float_network_before_calibration(own):
    model, images = tiny.model_and_images()
    graph, x = capture(model, images[:1]).graph, images[:2]
    before = x.clone()
    rehearse(find_measures(["top1", "cosine"]), graph, x, torch.tensor([0, 1]))
    assert torch.equal(x, before)
    with pytest.raises(InputError, match="the metric 'fails' fails"):
        rehearse(find_measures([own("fails")]), graph, x, torch.tensor([0, 1]))
    with pytest.raises(InputError, match="the metric 'near' fails"):  # it asks for an output that is not there
        rehearse(find_measures([own("near")]), graph, x, None)
    with pytest.raises(InputError, match="the decoder fails"):
        rehearse(find_measures([], load_decoder(own("fails"))), graph, x, None)
