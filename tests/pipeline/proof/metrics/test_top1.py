"""Top-1 accuracy against hits counted by hand, over two batches."""

import numpy as np
import pytest
import torch

from isobit.pipeline.errors import InputError
from isobit.pipeline.proof.metrics import METRICS
from isobit.pipeline.proof.metrics.top1 import Top1

LOGITS = {"logits": np.float32([[2, 1, 0], [0, 3, 1]]), "aux": np.float32([[0, 1], [0, 1]])}


def test_hits_add_up_over_batches():
    top1 = Top1()
    for labels in ([0, 1], [1, 1]):
        top1.update(LOGITS, torch.tensor(labels))
    assert top1.compute() == 75.0 and top1.share.seen == 4
    whole = Top1()
    whole.update({"logits": np.tile(LOGITS["logits"], (2, 1))}, torch.tensor([0, 1, 1, 1]))
    assert whole.compute() == 75.0


def test_maps_are_counted_at_every_position():
    top1, maps = Top1(), np.zeros((1, 2, 2, 2), np.float32)
    maps[0, 1, 0] = 1
    top1.update({"map": maps}, torch.tensor([[[1, 0], [0, 0]]]))
    assert top1.compute() == 75.0


def test_positions_without_a_label_count_for_nothing_and_a_sample_s_label_may_be_255():
    top1, maps = Top1(), np.zeros((1, 2, 2, 2), np.float32)
    top1.update({"map": maps}, torch.tensor([[[0, 255], [1, 255]]]))
    assert top1.compute() == 50.0 and top1.share.seen == 2
    plain = Top1()
    plain.update({"logits": np.eye(256, dtype=np.float32)[[255, 0]]}, torch.tensor([255, 1]))
    assert plain.compute() == 50.0 and plain.share.seen == 2


@pytest.mark.parametrize("labels", [[0.5, 1.0], [[0], [1]], [0, 1, 1], ["cat", "dog"]])
def test_it_wants_one_whole_number_for_each_choice(labels):
    with pytest.raises(InputError, match="the metric 'top1' cannot compare with targets") as error:
        Top1().update(LOGITS, labels)
    assert error.value.field == "evaluation"


def test_an_output_without_a_choice_is_refused():
    with pytest.raises(InputError, match=r"the first output is \[N, 1\]"):
        Top1().update({"value": np.ones((2, 1), np.float32)}, torch.tensor([0, 1]))
    assert METRICS.get("top1").chooses and METRICS.get("top1").published
