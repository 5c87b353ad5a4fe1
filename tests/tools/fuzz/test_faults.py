"""What a fault may do is judged as it should be; one kill is tried for real."""

import signal

import pytest

from tools.fuzz import faults
from tools.fuzz.builds import Bench, Ended, digest
from tools.fuzz.faults import FAULTS, Outcome, judge, killed


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path, target="reference")


def ended(code, screen=""):
    return Ended(code, screen, 1.0)


def test_a_build_gives_the_same_bytes_or_a_clear_error(bench):
    assert judge(bench, ended(0), "x").wrong == "exit 0, and the artifact differs or is not there"
    assert judge(bench, ended(2, "error: input: full"), "x") == Outcome("", "error: input: full")
    assert judge(bench, ended(2, "nothing said"), "x").wrong == "no error is told"
    assert judge(bench, ended(2, "error: input: full"), "x", refusable=False).wrong.startswith("exit 2")
    assert "traceback" in judge(bench, ended(2, "Traceback (most recent"), "x").wrong
    assert judge(bench, ended(3, "who knows"), "x").wrong == "exit 3: who knows"
    (bench.folder / "out").mkdir()
    (bench.folder / "out" / "model").write_bytes(b"1")
    assert judge(bench, ended(0), digest(bench.folder / "out")) == Outcome("", "the same bytes")
    assert judge(bench, ended(0), "x").wrong
    assert judge(bench, ended(2, "error: input: full"), "x").wrong == "refused, and something stands at --out"


class Scripted(Bench):
    """Builds are shell scripts."""

    script = "echo begins; mkdir out; echo 1 > out/model"

    def command(self, out, *more):
        return ["sh", "-c", self.script]


def test_half_artifacts_and_what_is_left_behind_are_seen(tmp_path):
    bench = Scripted(tmp_path)
    bench.build("out")
    whole = digest(tmp_path / "out")
    assert killed(bench, "other", 0.1).wrong == "half an artifact stands at --out"
    faults._clean(bench)
    bench.script = "echo begins; test -e begun && mkdir out && echo 1 > out/model; touch begun; test -e out || sleep 5"
    assert killed(bench, whole, 0.5).wrong == "left behind: ['begun']"
    faults._clean(bench)
    bench.script = "exit 1"
    assert killed(bench, whole, 0.1).wrong.startswith("resumed: exit 1")
    bench.script = "trap 'exit 7' TERM; echo begins; sleep 5 & wait"
    assert killed(bench, whole, 0.5, signal.SIGTERM).wrong == "exit 7"


def test_a_real_build_is_killed_and_goes_on(bench):
    found = dict(faults.run(bench, 1, ["clock_back"], told=lambda text: None))
    assert list(found) == ["kill 0", "clock_back"]
    assert not [outcome for outcome in found.values() if outcome.wrong]
    assert bench.left() == ["whole"]


def test_the_table_counts_what_is_wrong(monkeypatch, capsys):
    outcomes = [("kill 0", Outcome("gone", "x")), ("full_out", Outcome("", "no mount", skipped=True))]
    monkeypatch.setattr(faults, "run", lambda *given: outcomes)
    assert faults.main(["--kills", "1"]) == 1
    shown = capsys.readouterr().out
    assert "WRONG    gone" in shown and "skipped  no mount" in shown and "1 wrong" in shown
    assert len(FAULTS) >= 12
