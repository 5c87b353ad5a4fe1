"""Top-1 accuracy against hits counted by hand, over two batches."""

import numpy as np

from isobit.pipeline.proof.metrics import METRICS, Outputs
from isobit.pipeline.proof.metrics.top1 import Top1


def test_hits_add_up_over_batches():
    top1 = Top1(("float", "artifact"))
    for labels in ([0, 1], [1, 1]):
        top1.add(Outputs("classes", {}, {"float": np.array([0, 1]), "artifact": np.array([1, 1])}, np.array(labels)))
    assert top1.values == {"float": 75.0, "artifact": 75.0} and top1.shares["float"].seen == 4


def test_it_wants_labels_and_one_choice_for_each_sample():
    top1, labels = METRICS.get("top1"), np.array([0])
    assert top1.applies(Outputs("classes", {}, {}, labels)) and top1.published
    assert not top1.applies(Outputs("classes", {}, {}, None)) and not top1.applies(Outputs("maps", {}, {}, labels))
