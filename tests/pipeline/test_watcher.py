"""The silent watcher answers every call of the protocol, the relay passes each on."""

import inspect

from isobit.pipeline.watcher import Quiet, Relay, Watcher


def test_quiet_has_every_method_of_the_protocol_with_the_same_parameters():
    names = [name for name, member in inspect.getmembers(Watcher, inspect.isfunction) if not name.startswith("_")]
    assert set(names) == {
        "planned", "expected", "stage", "units", "step", "done", "training", "epoch", "allocating", "allocated",
        "proving", "note", "tried",
    }
    for name in names:
        assert inspect.signature(getattr(Quiet, name)) == inspect.signature(getattr(Watcher, name))


def test_a_relay_passes_every_call_on_with_its_arguments():
    calls = []

    class Told:
        def __getattr__(self, name):
            return lambda *given: calls.append((name, given))

    relay = Relay(Told())
    for name, member in inspect.getmembers(Watcher, inspect.isfunction):
        if name.startswith("_"):
            continue
        assert inspect.signature(getattr(Relay, name)) == inspect.signature(member)
        given = tuple(object() for _ in list(inspect.signature(member).parameters)[1:])
        getattr(relay, name)(*given)
        assert calls.pop() == (name, given)
