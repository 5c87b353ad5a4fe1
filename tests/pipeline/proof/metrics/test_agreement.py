"""Agreement counts every position of the first output, over batches; one value along axis 1 is no choice."""

import numpy as np

from isobit.pipeline.proof.metrics.agreement import Agreement


def one_hot(chosen, classes=8):
    return {"logits": np.eye(classes, dtype=np.float32)[chosen].swapaxes(1, -1)}


def test_positions_are_counted_over_batches():
    agreement, chosen = Agreement(), np.arange(8).reshape(2, 4)
    assert agreement.compute() is None
    agreement.update(one_hot(chosen), one_hot(chosen))
    agreement.update(one_hot(chosen), one_hot(np.where(chosen < 4, chosen, 0)))
    assert agreement.compute() == 75.0 and agreement.share.seen == 16
    whole = Agreement()
    both = np.concatenate([chosen, chosen])
    whole.update(one_hot(both), one_hot(np.concatenate([chosen, np.where(chosen < 4, chosen, 0)])))
    assert whole.compute() == 75.0


def test_numbers_are_no_choice():
    agreement = Agreement()
    agreement.update({"value": np.ones((4, 1), np.float32)}, {"value": np.zeros((4, 1), np.float32)})
    assert agreement.compute() is None
