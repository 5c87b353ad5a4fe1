"""The registry of targets: discovery finds every backend, an unknown one is answered with the nearest spelling."""

import pytest

from isobit import backends
from isobit.backends.base import BACKENDS, PlainBackend
from isobit.backends.device.replay import CannotCheck
from isobit.pipeline.errors import TargetError
from isobit.pipeline.registry import discover
from isobit.pipeline.target import Target


def test_every_backend_has_profiles_levels_and_a_target_for_each():
    discover(backends)
    assert {"onnx", "onnx-qoperator", "reference"} <= set(BACKENDS.names())
    for name in BACKENDS.names():
        backend = BACKENDS.get(name)
        assert backend.name == name and backend.levels and set(backend.gated_levels) <= set(backend.levels)
        for profile in backend.profiles:
            target = target_or_refusal(backend, profile)
            if isinstance(target, TargetError):  # this machine lacks a tool
                assert "install" in target.hint or "Build on" in target.hint, target
                continue
            assert isinstance(target, Target) and target.name == name
            # The machine's own profile is one of the others.
            assert target.profile == profile or (profile == "native" and target.profile in backend.profiles)


def target_or_refusal(backend, profile):
    try:
        return backend.target(profile)
    except TargetError as error:
        return error


def test_an_unknown_target_names_the_nearest():
    discover(backends)
    with pytest.raises(TargetError, match="Did you mean 'onnx'"):
        BACKENDS.get("onxx")


def test_a_target_that_says_nothing_of_its_times_has_none(tmp_path):
    with pytest.raises(CannotCheck, match="'' has no runtime that is timed: build for another"):
        PlainBackend().contender(tmp_path, 1, 1)


def test_a_target_that_says_how_it_is_timed_is(tmp_path):
    class Timed(PlainBackend):
        def timed(self, folder, sample):
            return lambda: None

    assert "no runtime that is timed" in PlainBackend().untimed("any") and Timed().untimed("any") == ""
    with pytest.raises(CannotCheck, match="no runtime that is timed"):
        PlainBackend().timed(tmp_path, None)
