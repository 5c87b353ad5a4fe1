"""The silent watcher answers every call of the protocol."""

import inspect

from pipeline.watcher import Quiet, Watcher


def test_quiet_has_every_method_of_the_protocol_with_the_same_parameters():
    names = [name for name, member in inspect.getmembers(Watcher, inspect.isfunction) if not name.startswith("_")]
    assert set(names) == {
        "planned", "expected", "stage", "units", "step", "done", "training", "epoch", "allocating", "allocated",
        "proving", "note",
    }
    for name in names:
        assert inspect.signature(getattr(Quiet, name)) == inspect.signature(getattr(Watcher, name))
