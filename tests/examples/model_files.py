"""Model files on disk, and what loading them must give."""

import pytest
import torch

from isobit.pipeline.errors import InputError
from isobit.pipeline.model.modelfile import load_model


def saved(content, name="model.pth"):
    torch.save(content, name)
    return name


def assert_same(loaded, net):
    assert loaded.exported is None
    assert not loaded.module.training
    expected = net.state_dict()
    found = loaded.module.state_dict()
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


def refused(path, match, **options):
    with pytest.raises(InputError, match=match) as caught:
        load_model(path, **options)
    return caught.value
