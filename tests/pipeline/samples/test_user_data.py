"""Samples from a user's function: of every kind of iterable, batched or not, in one order, mistakes with their line."""

import numpy as np
import pytest
import torch

from isobit.pipeline.errors import InputError
from isobit.pipeline.samples.arrays import WantedInputs
from isobit.pipeline.samples.user_data import names_a_function, read_user_data

ONE, TWO = WantedInputs(("x",), 1), WantedInputs(("left", "right"), 2)
HEAD = """import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

X = torch.arange(24.0).reshape(6, 1, 2, 2)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


"""


@pytest.fixture
def read(tmp_path):
    """Reads what a function of this body gives."""

    def reads(body, wanted=ONE, rank=4, most=None):
        lines = "".join(f"    {line}\n" for line in body.split("\n"))
        (tmp_path / "mine.py").write_text(f"{HEAD}def samples():\n{lines}")
        return read_user_data(f"{tmp_path / 'mine.py'}:samples", "calibration", wanted, rank, most)[0]

    return reads


def test_only_a_python_file_and_a_name_is_a_function():
    assert names_a_function("a/b.py:samples") and names_a_function("b.py:")
    assert not any(map(names_a_function, ("a.npz", "images", "a.py", "C:images", "a.py:b/c")))


@pytest.mark.parametrize("body", [
    "return list(zip(X, LABELS))",
    "return [(x[None], y[None]) for x, y in zip(X, LABELS)]",
    "return TensorDataset(X, LABELS)",
    "return DataLoader(TensorDataset(X, LABELS), batch_size=4)",
    "return DataLoader(TensorDataset(X, LABELS), batch_size=None)",
    "yield X[:4], LABELS[:4].tolist()\nyield X[4:], LABELS[4:].tolist()",
    "return ({'pixels': x.numpy(), 'y': int(y)} for x, y in zip(X, LABELS))",
    "return [((x,), y) for x, y in zip(X, LABELS)]",
    "return [[{'x': x.double()}, y] for x, y in zip(X, LABELS)]",
])
def test_every_form_gives_the_same_samples(read, body):
    samples = read(body)
    (array,) = samples.inputs.values()
    assert array.dtype == np.float32 and np.array_equal(array, np.arange(24).reshape(6, 1, 2, 2))
    assert torch.equal(samples.labels, torch.tensor([0, 1, 2, 0, 1, 2]))
    assert samples.content(1) == read("return TensorDataset(X, LABELS)").content(1)


def test_a_shuffling_loader_gives_one_order_and_leaves_the_generators_alone(read):
    body = "return DataLoader(TensorDataset(X, LABELS), batch_size=2, shuffle=True)"
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = read(body)
    torch.manual_seed(6)
    assert np.array_equal(first.inputs["x"], read(body).inputs["x"])
    assert not torch.equal(before, torch.random.get_rng_state())  # as the second seed left it
    assert first.labels.tolist() != [0, 1, 2, 0, 1, 2]


def test_no_more_is_read_than_asked_for(read):
    samples = read("n = 0\nwhile True:\n    assert n < 2, 'too far'\n    n += 1\n    yield X, LABELS", most=8)
    assert len(samples) == 8 and samples.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]


def test_several_inputs_by_place_or_by_name(read):
    for body in ("return [(x, torch.tensor([3]), y) for x, y in zip(X, LABELS)]",
                 "return [((x, torch.tensor([3])), y) for x, y in zip(X, LABELS)]",
                 "return [{'right': np.array([3]), 'left': x, 'y': y} for x, y in zip(X, LABELS)]"):
        samples = read(body, TWO)
        assert list(samples.inputs) == ["left", "right"] and samples.shapes == ((1, 2, 2), (1,))
        assert samples.inputs["right"].dtype == np.int64 and samples.labels.tolist() == [0, 1, 2, 0, 1, 2]
    pairs = read("return list(zip(X, LABELS[:, None]))", TWO)
    assert pairs.targets is None and pairs.shapes == ((1, 2, 2), (1,))


def test_targets_of_other_kinds_are_kept(read):
    assert read("return [(x, [0.5, 1.5]) for x in X]").targets[0] == [0.5, 1.5]
    boxes = read("return [(x, {'boxes': torch.zeros(n, 4)}) for n, x in enumerate(X)]")
    assert [len(target["boxes"]) for target in boxes.targets] == [0, 1, 2, 3, 4, 5] and boxes.labels is None
    values = read("return [(x, x.mean()) for x in X]")
    assert values.targets.dtype == torch.float32 and values.labels is None
    batched = read("return [(X, {'a': LABELS})]")
    assert [target["a"].item() for target in batched.targets] == [0, 1, 2, 0, 1, 2]


def test_without_a_rank_the_target_tells_and_else_nobody(read):
    assert len(read("return [(X, LABELS)]", rank=None)) == 6
    assert read("return list(zip(X, LABELS))", rank=None).shape == (1, 2, 2)
    assert read("return [torch.zeros(5)]", rank=None).shape == (5,)
    with pytest.raises(InputError, match="one sample or a batch is not known"):
        read("return [X]", rank=None)


@pytest.mark.parametrize(("body", "message"), [
    ("return 3", "returns int"),
    ("return 'x'", "returns str"),
    ("return []", "gives no samples"),
    ("return [X[0, 0]]", r"an item has the shape \[2, 2\]"),
    ("return [(X[0], 1), X[0]]", "1 of 2 samples have a target"),
    ("return [(X, LABELS[:2])]", "a batch of 6 samples has 2 targets"),
    ("return [X[0], torch.zeros(1, 3, 3)]", "different shapes"),
    ("return [(X[0], -1)]", "negative label -1"),
    ("return [X.byte()]", "x holds uint8"),
    ("return ['a']", "the input 'x' is str"),
    ("return [(X[0], 1, 2)]", "tuple of 3"),
    ("return [{'a': X[0], 'b': X[0]}]", "a dictionary of a, b"),
])
def test_what_is_no_sample_is_refused(read, body, message):
    with pytest.raises(InputError, match=message) as caught:
        read(body)
    assert "mine.py:samples" in caught.value.where


def test_a_mistake_in_the_users_code_is_told_with_its_line(read):
    with pytest.raises(InputError, match="the function fails: ValueError: mine") as caught:
        read("yield X[0], 0\nraise ValueError('mine')")
    assert "mine.py:11" in caught.value.where
    with pytest.raises(InputError, match="the function fails") as caught:
        read("return np.load('nowhere.npy')")
    assert "mine.py:10" in caught.value.where  # and not the library's line
