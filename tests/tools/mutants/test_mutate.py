"""The gate is tested itself: every mutant of small artifacts is killed, or changes nothing by a rule of the reader."""

import pytest

from isobit.backends.base import BACKENDS, NOT_READ
from isobit.pipeline.proof.findings import Difference, ReadBack
from tests.examples.onnx_cases import frozen
from tools.mutants import mutate
from tools.mutants.mutate import (
    DAMAGE,
    DIRECTED,
    PARITY,
    READ,
    REFUSED,
    RULE,
    SURVIVED,
    UNLOADED,
    VERDICTS,
    Frozen,
    judged,
    table,
)

pytestmark = pytest.mark.onnxruntime


def small(name, *bits):
    reference, images = frozen(name, *bits)
    return Frozen(reference, images[:6])


FORMS = ("onnx", "onnx-qoperator")


@pytest.mark.parametrize("target", FORMS)
@pytest.mark.parametrize(("name", "bits"), [("squeeze_excite", (3, 4)), ("conv_transpose", (8, 8))])
def test_no_mutant_survives_and_none_that_changes_nothing_is_refused(name, bits, target):
    tally = judged(small(name, *bits), BACKENDS.get(target), DAMAGE[target], lambda all: list(all)[::9])
    assert not tally.told and tally.of(READ) + tally.of(RULE) == tally.total
    assert tally.of(READ) > 40 and tally.of(RULE) > 2


class Blind:
    """A backend whose files nobody reads again."""

    def __init__(self, backend):
        self._backend = backend

    def __getattr__(self, name):
        return getattr(self._backend, name)

    def read_back(self, reference, folder, preprocessing):
        return ReadBack(1, 1)


class Suspicious(Blind):
    """One that takes nothing for what it must be."""

    def read_back(self, reference, folder, preprocessing):
        return ReadBack(1, 1, (Difference("head", "W", "3", "4"),))


def some(*words):
    return lambda variants: [each for each in variants if any(word in each.name for word in words)]


def test_what_a_blind_reader_misses_is_told_by_parity_or_survives():
    chosen = some("operand 6 of", "LeakyRelu", "Sigmoid", "names", "called otherwise", "ir_version")
    tally = judged(small("relu", 8, 8), Blind(BACKENDS.get("onnx-qoperator")), DAMAGE["onnx-qoperator"],
                   chosen, ask_parity=True)
    assert [tally.of(each) for each in VERDICTS] == [0, 1, 0, 8, 19, 5, 0] and tally.total == 33
    assert len(tally.told) == tally.of(SURVIVED) + tally.of(PARITY) + tally.of(UNLOADED)
    lines = list(table(tally))
    assert lines[-2].split() == ["all", "33", "0", "1", "0", "8", "19", "5", "0"]
    assert lines[-1] == "parity alone: 5 of 13 that load survive (fact 1, scale 4)"


class Unread(Blind):
    """A backend that has no reader."""

    def read_back(self, reference, folder, preprocessing):
        return NOT_READ


class Unmade(Unread):
    """One whose arithmetic has no directed samples, either."""

    def arithmetic(self, reference):
        arithmetic = self._backend.arithmetic(reference)
        arithmetic.directed = lambda like: None
        return arithmetic


def test_without_a_reader_what_others_see_is_seen():
    damage, chosen = DAMAGE["onnx-qoperator"], some("operand 6 of", "LeakyRelu")
    for kind, verdict in ((Unread, DIRECTED), (Unmade, PARITY)):
        tally = judged(small("relu", 8, 8), kind(BACKENDS.get("onnx-qoperator")), damage, chosen)
        assert tally.of(verdict) > 3 and tally.wrong == (SURVIVED, REFUSED)
        assert len(tally.told) == tally.of(SURVIVED) == tally.total - tally.of(verdict) - tally.of(RULE) \
            - tally.of(UNLOADED)


def test_a_reader_that_refuses_everything_is_told():
    tally = judged(small("relu", 8, 8), Suspicious(BACKENDS.get("onnx")), DAMAGE["onnx"], some("called otherwise"))
    assert tally.of(REFUSED) == tally.total > 3


def test_an_unknown_place_for_data_is_an_error(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["mutate.py", "resnet20", "--data", str(tmp_path)])
    assert mutate.main() == 2 and "resnet20" in capsys.readouterr().err
